/* Stands before the C library in one process: counts what it allocates, hands out warm memory.
 *
 * allocations_read() tells how many blocks were asked for since the process began: small ones,
 * those of a page and more, and new mappings. With LEDGER_WARM_CHUNKS=n up to n anonymous mappings
 * of CHUNK_BYTES at a time come from memory that is there already, so that a measurement of code is
 * not one of the kernel's page faults. For glibc, whose own functions lie under these. It knows no
 * ledger.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 21, SMALL_BYTES = 4096, WARM_MAX = 1024 };

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static uint64_t small, large, mappings;
static void *warm[WARM_MAX]; /* taken and given back by one thread */
static uint64_t warm_count;
static char *pool, *pool_end;

static inline void count(size_t bytes) {
    __atomic_add_fetch(bytes < SMALL_BYTES ? &small : &large, 1, __ATOMIC_RELAXED);
}

void allocations_read(uint64_t found[3]) {
    found[0] = __atomic_load_n(&small, __ATOMIC_RELAXED);
    found[1] = __atomic_load_n(&large, __ATOMIC_RELAXED);
    found[2] = __atomic_load_n(&mappings, __ATOMIC_RELAXED);
}

static void *map(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    return (void *)syscall(SYS_mmap, at, bytes, prot, flags, fd, offset);
}

__attribute__((constructor)) static void begin(void) {
    const char *chunks = getenv("LEDGER_WARM_CHUNKS");
    uint64_t wanted = chunks ? strtoull(chunks, NULL, 10) : 0;
    if (!wanted || wanted > WARM_MAX) return;
    void *memory = map(NULL, (wanted + 1) * CHUNK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) return;
    pool = (char *)memory + -(uintptr_t)memory % CHUNK_BYTES;
    pool_end = pool + wanted * CHUNK_BYTES;
    for (char *chunk = pool; chunk < pool_end; chunk += CHUNK_BYTES) warm[warm_count++] = chunk;
}

void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset) {
    __atomic_add_fetch(&mappings, 1, __ATOMIC_RELAXED);
    if (warm_count && !at && bytes == CHUNK_BYTES && fd == -1 && prot == (PROT_READ | PROT_WRITE))
        return warm[--warm_count];
    return map(at, bytes, prot, flags, fd, offset);
}

void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

int munmap(void *at, size_t bytes) {
    if (at && (char *)at >= pool && (char *)at < pool_end) {
        memset(at, 0, bytes);
        warm[warm_count++] = at;
        return 0;
    }
    return (int)syscall(SYS_munmap, at, bytes);
}

void *malloc(size_t bytes) {
    count(bytes);
    return __libc_malloc(bytes);
}

void *calloc(size_t records, size_t bytes) {
    count(records * bytes);
    return __libc_calloc(records, bytes);
}

void *realloc(void *old, size_t bytes) {
    count(bytes);
    return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    count(bytes);
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **found, size_t alignment, size_t bytes) {
    count(bytes);
    *found = __libc_memalign(alignment, bytes);
    return *found ? 0 : ENOMEM;
}
