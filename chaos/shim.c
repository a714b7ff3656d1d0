/* A library for LD_PRELOAD that makes chosen file calls of a process fail, lie, wait or
 * kill it, logs when each began and ended, and records all that they change.
 *
 * It watches files and directories whose path contains SHIM_MATCH. A fault is three words, or four:
 *   calls   open, mkdir, rename, unlink, write, pwrite, pwritev, writev, fsync, fdatasync, fadvise,
 *           pread, joined by commas; or "any" (every write), "dsync" (every write that syncs
 *           itself), "sync" (every sync), "all" (every one but pread)
 *   nth     N: the N-th watched call of those, from 1; "from:N": each from the N-th on; 0: each
 *   action  delay:MS, eio, enospc, erofs, eacces, short (half of a write), lie (nothing is done and
 *           success is said), kill (before the call), kill-after (the call has reached memory and
 *           nothing of it is known to be on disk)
 *   where   only calls on paths that contain this, too
 * given as SHIM_CALL, SHIM_NTH and SHIM_ACTION, or as one line "calls nth action where" in the file
 * SHIM_CONTROL, which is read again at each watched call: faults can be switched in a running
 * process. A changed line counts from 1 again; an empty or missing file is no fault.
 * SHIM_LOG gets "begin CALL ns 0" and "end CALL ns result" of each watched write, sync and fadvise,
 * and the end of a rename (CLOCK_MONOTONIC).
 * SHIM_RECORD gets a record_t of each change that was made, in order, once the call has ended:
 * enough to rebuild what a disk may hold at any moment. Stores into mapped memory are not seen.
 * With SHIM_WITH_PARENT the process is killed when the thread that started it ends.
 * It knows nothing of what the process does. Linux only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    OPEN, MKDIR, RENAME, UNLINK, WRITE, PWRITE, PWRITEV, WRITEV, FSYNC, FDATASYNC, FADVISE, PREAD,
    CALLS
};
static const char *const call_names[CALLS] = {
    "open",    "mkdir",  "rename", "unlink",    "write",   "pwrite",
    "pwritev", "writev", "fsync",  "fdatasync", "fadvise", "pread"};
enum { WRITES = 1 << WRITE | 1 << PWRITE | 1 << PWRITEV | 1 << WRITEV };
enum { SYNCS = 1 << FSYNC | 1 << FDATASYNC, FDS = 65536, RULE_BYTES = 256 };

typedef enum { PROCEED, FAIL, SHORT, LIE, LAST } verdict_t;
enum { WATCHED = 1, DSYNC = 2 }; /* of a descriptor */
static atomic_uchar watched[FDS];
static char *places[FDS]; /* the path of each watched one, under the lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char rule[RULE_BYTES];
static long seen;
static int log_fd = -1, record_fd = -1;

/* The real functions are looked up by name: what is preloaded hides them. */
#define REAL(name, type, ...)                                         \
    static type (*real)(__VA_ARGS__);                                 \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Offsets have 64 bits with and without the name saying so. */
#define SAME_AS(name) __attribute__((alias(name)))
_Static_assert(sizeof(off_t) == sizeof(off64_t), "the 64-bit names are the same functions");

static int is_watched_path(const char *path) {
    const char *match = getenv("SHIM_MATCH");
    return match && *match && path && strstr(path, match) != NULL;
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS && watched[fd]; }
/* Raw system calls, so that the shim's own files are never watched. */
static void log_line(const char *what, int call, long result) {
    if (log_fd < 0) return;
    int error = errno;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char line[128];
    int length = snprintf(line, sizeof line, "%s %s %lld %ld\n", what, call_names[call],
                          now.tv_sec * 1000000000ll + now.tv_nsec, result);
    syscall(SYS_write, log_fd, line, (size_t)length);
    errno = error;
}

/* ---- recording ------------------------------------------------------------------------------- */

/* A record, and `bytes` more: the data of a write, or the name of an entry ("from", 0, "to" of a
 * rename). `inode` is the file or the entry's (the folder renamed to), `at` an offset, a size or
 * the inode of the entry's folder. `durable`: the write was on disk when it returned. */
typedef struct {
    uint64_t op, durable, inode, at, bytes;
} record_t;
enum { R_WRITE = 1, R_SYNC, R_TRUNCATE, R_ALLOCATE, R_CREATE, R_MKDIR, R_RENAME, R_REMOVE };

static void keep(const void *from, size_t bytes) {
    if (bytes && syscall(SYS_write, record_fd, from, bytes) != (long)bytes) abort();
}

static void record(int op, int durable, uint64_t inode, uint64_t at, const struct iovec *parts,
                   size_t bytes) {
    if (record_fd < 0) return;
    int error = errno;
    record_t head = {(uint64_t)op, (uint64_t)durable, inode, at, bytes};
    pthread_mutex_lock(&lock);
    keep(&head, sizeof head);
    for (; bytes; parts++) {
        size_t part = parts->iov_len < bytes ? parts->iov_len : bytes;
        keep(parts->iov_base, part);
        bytes -= part;
    }
    pthread_mutex_unlock(&lock);
    errno = error;
}

static uint64_t inode_at(int at, const char *path) {
    struct stat found = {0};
    int error = errno;
    fstatat(at, path, &found, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
    errno = error;
    return found.st_ino;
}

/* The inode of the folder that holds `path`, and the name it has there. */
static uint64_t folder_of(int at, const char *path, const char **name) {
    char folder[PATH_MAX] = ".";
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    if (slash) snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    return inode_at(at, folder);
}

static void record_entry(int op, int at, const char *path, uint64_t inode) {
    if (record_fd < 0) return;
    const char *name;
    uint64_t folder = folder_of(at, path, &name);
    struct iovec part = {(void *)name, strlen(name)};
    record(op, 0, inode, folder, &part, part.iov_len);
}

static void record_rename(const char *from, const char *to) {
    if (record_fd < 0) return;
    const char *old, *new;
    uint64_t at = folder_of(AT_FDCWD, from, &old), inode = folder_of(AT_FDCWD, to, &new);
    struct iovec parts[2] = {{(void *)old, strlen(old) + 1}, {(void *)new, strlen(new)}};
    record(R_RENAME, 0, inode, at, parts, parts[0].iov_len + parts[1].iov_len);
}

/* ---- rules ----------------------------------------------------------------------------------- */

static void read_rule(char *now) {
    now[0] = 0;
    const char *control = getenv("SHIM_CONTROL");
    if (control) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0) return;
        long length = syscall(SYS_read, fd, now, RULE_BYTES - 1);
        syscall(SYS_close, fd);
        now[length > 0 ? length : 0] = 0;
        now[strcspn(now, "\n")] = 0;
    } else if (getenv("SHIM_CALL") && getenv("SHIM_NTH") && getenv("SHIM_ACTION")) {
        snprintf(now, RULE_BYTES, "%s %s %s", getenv("SHIM_CALL"), getenv("SHIM_NTH"),
                 getenv("SHIM_ACTION"));
    }
}

static int names(char *calls, int call, int fd) {
    char *rest = NULL;
    for (char *name = strtok_r(calls, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (!strcmp(name, call_names[call])) return 1;
        if (!strcmp(name, "all") && call != PREAD) return 1;
        if (!strcmp(name, "any") && WRITES >> call & 1) return 1;
        if (!strcmp(name, "dsync") && WRITES >> call & 1 && watched[fd] & DSYNC) return 1;
        if (!strcmp(name, "sync") && SYNCS >> call & 1) return 1;
    }
    return 0;
}

/* Whether this call is due for the fault; `action` takes RULE_BYTES. Of a call that has no
 * descriptor `path` is given. */
static int is_due(int call, int fd, const char *path, char *action) {
    char now[RULE_BYTES], calls[RULE_BYTES], nth[RULE_BYTES], where[RULE_BYTES] = "";
    int due = 0;
    pthread_mutex_lock(&lock);
    read_rule(now);
    if (strcmp(now, rule) != 0) {
        strcpy(rule, now);
        seen = 0;
    }
    if (!path && fd >= 0 && fd < FDS) path = places[fd];
    if (sscanf(now, "%255s %255s %255s %255s", calls, nth, action, where) >= 3 &&
        (!*where || (path && strstr(path, where))) && names(calls, call, fd)) {
        seen++;
        if (!strncmp(nth, "from:", 5))
            due = seen >= atol(nth + 5);
        else
            due = atol(nth) == 0 || seen == atol(nth);
    }
    pthread_mutex_unlock(&lock);
    return due;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    pause();
}

static verdict_t judge(int call, int fd, const char *path) {
    char action[RULE_BYTES];
    if (!is_due(call, fd, path, action)) return PROCEED;
    if (!strcmp(action, "kill")) die();
    if (!strcmp(action, "kill-after")) return LAST;
    if (!strcmp(action, "short")) return SHORT;
    if (!strcmp(action, "lie")) return LIE;
    if (!strncmp(action, "delay:", 6)) {
        long ms = atol(action + 6);
        struct timespec left = {ms / 1000, ms % 1000 * 1000000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
    }
    errno = !strcmp(action, "eio") ? EIO : !strcmp(action, "enospc") ? ENOSPC
          : !strcmp(action, "erofs") ? EROFS : !strcmp(action, "eacces") ? EACCES : 0;
    return errno ? FAIL : PROCEED;
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("SHIM_LOG");
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    if (path) log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
    if (getenv("SHIM_WITH_PARENT")) prctl(PR_SET_PDEATHSIG, SIGKILL);
    path = getenv("SHIM_RECORD");
    if (path) record_fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
}

/* ---- files and directories ------------------------------------------------------------------- */

static void place(int fd, const char *path) {
    pthread_mutex_lock(&lock);
    free(places[fd]);
    places[fd] = path ? strdup(path) : NULL;
    pthread_mutex_unlock(&lock);
}

static int opened(int fd, const char *path, int flags) {
    if (fd >= 0 && fd < FDS) {
        int dsync = (flags & O_DSYNC) == O_DSYNC ? DSYNC : 0;
        place(fd, path);
        watched[fd] = (unsigned char)(WATCHED | dsync);
    }
    return fd;
}

static void record_open(int fd, int at, const char *path, int flags, int is_new) {
    if (fd < 0) return;
    if (is_new)
        record_entry(R_CREATE, at, path, inode_at(fd, ""));
    else if (flags & O_TRUNC)
        record(R_TRUNCATE, 0, inode_at(fd, ""), 0, NULL, 0);
}

#define ARGS(...) __VA_ARGS__
#define OPENS(name, parameters, types, arguments, folder, is_on)                 \
    int name(parameters const char *path, int flags, ...) {                      \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        mode_t mode = va_arg(rest, mode_t); /* none given: passing one on does no harm */ \
        va_end(rest);                                                            \
        REAL(name, int, types const char *, int, ...);                           \
        if (!(is_on)) {                                                          \
            int fd = real(arguments path, flags, mode);                          \
            if (fd >= 0 && fd < FDS) watched[fd] = 0;                            \
            return fd;                                                           \
        }                                                                        \
        verdict_t verdict = judge(OPEN, -1, path);                               \
        if (verdict == FAIL) return -1;                                          \
        int is_new = flags & O_CREAT && inode_at(folder, path) == 0;             \
        int fd = opened(real(arguments path, flags, mode), path, flags);         \
        record_open(fd, folder, path, flags, is_new);                            \
        if (verdict == LAST) die();                                              \
        return fd;                                                               \
    }
OPENS(open, , , , AT_FDCWD, is_watched_path(path))
OPENS(openat, ARGS(int at,), ARGS(int,), ARGS(at,), at, is_watched_path(path) || is_watched(at))
int open64(const char *, int, ...) SAME_AS("open");
int openat64(int, const char *, int, ...) SAME_AS("openat");

int close(int fd) {
    REAL(close, int, int);
    if (is_watched(fd)) {
        watched[fd] = 0;
        place(fd, NULL);
    }
    return real(fd);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir, int, const char *, mode_t);
    if (!is_watched_path(path)) return real(path, mode);
    verdict_t verdict = judge(MKDIR, -1, path);
    if (verdict == FAIL) return -1;
    int result = real(path, mode);
    if (result == 0) record_entry(R_MKDIR, AT_FDCWD, path, inode_at(AT_FDCWD, path));
    if (verdict == LAST) die();
    return result;
}

int rename(const char *from, const char *to) {
    REAL(rename, int, const char *, const char *);
    if (!is_watched_path(to)) return real(from, to);
    verdict_t verdict = judge(RENAME, -1, to);
    int result = verdict == FAIL ? -1 : real(from, to);
    if (result == 0) record_rename(from, to);
    log_line("end", RENAME, result);
    if (verdict == LAST) die();
    return result;
}

int unlink(const char *path) {
    REAL(unlink, int, const char *);
    if (!is_watched_path(path)) return real(path);
    verdict_t verdict = judge(UNLINK, -1, path);
    if (verdict == FAIL) return -1;
    int result = real(path);
    if (result == 0) record_entry(R_REMOVE, AT_FDCWD, path, 0);
    if (verdict == LAST) die();
    return result;
}
/* What is removed otherwise is recorded and never made to fail. */

int rmdir(const char *path) {
    REAL(rmdir, int, const char *);
    int result = real(path);
    if (result == 0 && is_watched_path(path)) record_entry(R_REMOVE, AT_FDCWD, path, 0);
    return result;
}

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat, int, int, const char *, int);
    int result = real(at, path, flags);
    if (result == 0 && (is_watched_path(path) || is_watched(at)))
        record_entry(R_REMOVE, at, path, 0);
    return result;
}

/* ---- writes and syncs ------------------------------------------------------------------------ */

/* `whole` and `half` are the real call, with all and with half of what it was asked to do, `told`
 * what a lie says, `recorded` what is recorded of a call that did something. */
#define DO_WATCHED(type, call, told, whole, half, recorded)     \
    if (!is_watched(fd)) return whole;                          \
    log_line("begin", call, 0);                                 \
    verdict_t verdict = judge(call, fd, NULL);                  \
    type result = verdict == FAIL ? -1 : verdict == LIE ? (type)(told) \
                : verdict == SHORT ? half : whole;              \
    if (verdict != LIE && result >= 0) recorded;                \
    log_line("end", call, (long)result);                        \
    if (verdict == LAST) die();                                 \
    return result

static void record_write(int fd, verdict_t verdict, off_t at, const struct iovec *parts,
                         ssize_t bytes) {
    if (record_fd < 0) return;
    int durable = watched[fd] & DSYNC && verdict != LAST;
    record(R_WRITE, durable, inode_at(fd, ""), (uint64_t)at, parts, (size_t)bytes);
}

static void record_sync(int fd, verdict_t verdict) {
    if (record_fd >= 0 && verdict != LAST) record(R_SYNC, 0, inode_at(fd, ""), 0, NULL, 0);
}

static off_t offset_of(int fd) { return is_watched(fd) ? lseek(fd, 0, SEEK_CUR) : 0; }

static size_t bytes_of(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

ssize_t write(int fd, const void *from, size_t bytes) {
    REAL(write, ssize_t, int, const void *, size_t);
    struct iovec part = {(void *)from, bytes};
    off_t at = offset_of(fd);
    DO_WATCHED(ssize_t, WRITE, bytes, real(fd, from, bytes), real(fd, from, bytes / 2),
               record_write(fd, verdict, at, &part, result));
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) {
    REAL(pwrite, ssize_t, int, const void *, size_t, off_t);
    struct iovec part = {(void *)from, bytes};
    DO_WATCHED(ssize_t, PWRITE, bytes, real(fd, from, bytes, at), real(fd, from, bytes / 2, at),
               record_write(fd, verdict, at, &part, result));
}
ssize_t pwrite64(int, const void *, size_t, off64_t) SAME_AS("pwrite");
/* Half of several parts is the first half of the parts, or half of the only one. */
#define HALF(parts, count)                                             \
    struct iovec part = {0};                                           \
    if ((count) == 1) part = (struct iovec){(parts)->iov_base, (parts)->iov_len / 2}; \
    const struct iovec *few = (count) == 1 ? &part : (parts);          \
    int few_count = (count) == 1 ? 1 : (count) / 2

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev, ssize_t, int, const struct iovec *, int);
    HALF(parts, count);
    off_t at = offset_of(fd);
    DO_WATCHED(ssize_t, WRITEV, bytes_of(parts, count), real(fd, parts, count),
               real(fd, few, few_count), record_write(fd, verdict, at, parts, result));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev, ssize_t, int, const struct iovec *, int, off_t);
    HALF(parts, count);
    DO_WATCHED(ssize_t, PWRITEV, bytes_of(parts, count), real(fd, parts, count, at),
               real(fd, few, few_count, at), record_write(fd, verdict, at, parts, result));
}
ssize_t pwritev64(int, const struct iovec *, int, off64_t) SAME_AS("pwritev");

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    REAL(pwritev2, ssize_t, int, const struct iovec *, int, off_t, int);
    HALF(parts, count);
    DO_WATCHED(ssize_t, PWRITEV, bytes_of(parts, count), real(fd, parts, count, at, flags),
               real(fd, few, few_count, at, flags),
               record_write(fd, verdict, at, parts, result));
}
ssize_t pwritev64v2(int, const struct iovec *, int, off64_t, int) SAME_AS("pwritev2");

/* Reads are made to fail, and neither logged nor recorded. */
ssize_t pread(int fd, void *into, size_t bytes, off_t at) {
    REAL(pread, ssize_t, int, void *, size_t, off_t);
    if (!is_watched(fd)) return real(fd, into, bytes, at);
    verdict_t verdict = judge(PREAD, fd, NULL);
    if (verdict == FAIL) return -1;
    return real(fd, into, verdict == SHORT ? bytes / 2 : bytes, at);
}
ssize_t pread64(int, void *, size_t, off64_t) SAME_AS("pread");

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    REAL(preadv2, ssize_t, int, const struct iovec *, int, off_t, int);
    if (!is_watched(fd)) return real(fd, parts, count, at, flags);
    HALF(parts, count);
    verdict_t verdict = judge(PREAD, fd, NULL);
    if (verdict == FAIL) return -1;
    return verdict == SHORT ? real(fd, few, few_count, at, flags)
                            : real(fd, parts, count, at, flags);
}
ssize_t preadv64v2(int, const struct iovec *, int, off64_t, int) SAME_AS("preadv2");

int ftruncate(int fd, off_t bytes) {
    REAL(ftruncate, int, int, off_t);
    int result = real(fd, bytes);
    if (result == 0 && is_watched(fd))
        record(R_TRUNCATE, 0, inode_at(fd, ""), (uint64_t)bytes, NULL, 0);
    return result;
}
int ftruncate64(int, off64_t) SAME_AS("ftruncate");

int posix_fallocate(int fd, off_t at, off_t bytes) {
    REAL(posix_fallocate, int, int, off_t, off_t);
    int result = real(fd, at, bytes);
    if (result == 0 && is_watched(fd))
        record(R_ALLOCATE, 0, inode_at(fd, ""), (uint64_t)(at + bytes), NULL, 0);
    return result;
}
int posix_fallocate64(int, off64_t, off64_t) SAME_AS("posix_fallocate");

#define SYNCS_WITH(name, call)                                                          \
    int name(int fd) {                                                                  \
        REAL(name, int, int);                                                           \
        DO_WATCHED(int, call, 0, real(fd), real(fd), record_sync(fd, verdict));         \
    }
SYNCS_WITH(fsync, FSYNC)
SYNCS_WITH(fdatasync, FDATASYNC)

int posix_fadvise(int fd, off_t at, off_t bytes, int advice) {
    REAL(posix_fadvise, int, int, off_t, off_t, int);
    DO_WATCHED(int, FADVISE, 0, real(fd, at, bytes, advice), 0, (void)0);
}
int posix_fadvise64(int, off64_t, off64_t, int) SAME_AS("posix_fadvise");
