/* Test tool: the filter, the hash and column files in C, under the compiler's sanitizers.
 *
 * A program of its own, as leaves.c is, and for the same reasons: memory can be made to run out and
 * a read past an end is seen. Answers are compared with those of loops over arrays. The part
 * "beside" inserts in one thread what others ask for, for the sanitizer of threads. Usage: columns
 * PART SEED. It says what is wrong and aborts.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static long memory_left = -1; /* allocations that still succeed; below 0 all do */
static long mapped;           /* bytes */

static int memory_out(void) {
    if (memory_left < 0) return 0;
    if (memory_left == 0) return 1;
    memory_left--;
    return 0;
}
static void *test_malloc(size_t bytes) { return memory_out() ? NULL : malloc(bytes); }
static void *test_realloc(void *old, size_t bytes) {
    return memory_out() ? NULL : realloc(old, bytes);
}
static void *test_aligned_alloc(size_t alignment, size_t bytes) {
    return memory_out() ? NULL : aligned_alloc(alignment, bytes);
}
static void *test_mmap(void *at, size_t bytes, int how, int flags, int fd, off_t offset) {
    if (memory_out()) return MAP_FAILED;
    mapped += (long)bytes;
    return mmap(at, bytes, how, flags, fd, offset);
}
static int test_munmap(void *at, size_t bytes) {
    mapped -= (long)bytes;
    return munmap(at, bytes);
}
#define malloc test_malloc
#define realloc test_realloc
#define aligned_alloc test_aligned_alloc
#define mmap test_mmap
#define munmap test_munmap
#define FILTER_FIRST 4096u
#include "history/column_file.h"

static u64 seed_state;

static u64 draw(void) { /* splitmix64 */
    u64 z = (seed_state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* ---- the filter ------------------------------------------------------------------------------ */

enum { HASHES = 4096 * (1 + 4 + 16) + 1000, PROBES = 400000 };
static u64 hashes[HASHES];

static int compare_u64(const void *a, const void *b) {
    const u64 x = *(const u64 *)a, y = *(const u64 *)b;
    return (x > y) - (x < y);
}

static u64 false_answers(const filter_t *filter) {
    u64 found = 0;
    for (u32 i = 0; i < PROBES; i++) {
        const u64 hash = draw();
        filter_prefetch(filter, hash);
        found += (u64)filter_maybe(filter, hash);
    }
    return found;
}

/* Hashes go in by pieces, sorted or not, alone or as the first of two. */
static void stress_filter(int sorted, u64 stride) {
    filter_t filter;
    filter_init(&filter);
    invariant(!filter_maybe(&filter, draw()) && filter_insert(&filter, NULL, 1, 0) == 0);
    const u64 count = 4096 / stride;
    for (u64 i = 0; i < count * stride; i++) hashes[i] = draw();
    if (sorted) qsort(hashes, count, stride * sizeof(u64), compare_u64);
    for (u64 done = 0, some; done < count; done += some) {
        some = 1 + draw() % 700;
        if (some > count - done) some = count - done;
        invariant(filter_insert(&filter, hashes + done * stride, stride, some) == 0);
        for (u64 i = 0; i < done + some; i++) invariant(filter_maybe(&filter, hashes[i * stride]));
    }
    invariant(filter.level_count == 1 && filter.levels[0].count == count);
    invariant(false_answers(&filter) < PROBES * 3 / 1000);
    filter_free(&filter);
    invariant(mapped == 0 && filter.level_count == 0);
}

static void grow_filter(void) {
    filter_t filter;
    filter_init(&filter);
    u64 done = 0, most = 0;
    for (u64 i = 0; i < HASHES; i++) hashes[i] = draw();
    for (u64 some = 1; done < HASHES; some += 1 + draw() % 5000) { /* over the ends of levels */
        if (some > HASHES - done) some = HASHES - done;
        invariant(filter_insert(&filter, hashes + done, 1, some) == 0);
        done += some;
        if (some > most) most = some;
    }
    invariant(most > 4096 && filter.level_count == 4);
    const u64 counts[] = {4096, 4 * 4096, 16 * 4096, 1000};
    for (u32 i = 0; i < 4; i++) {
        invariant(filter.levels[i].count == counts[i]);
        invariant(filter.levels[i].block_count * FILTER_BLOCK_BYTES * 8 ==
                  filter.levels[i].capacity * 32);
    }
    for (u64 i = 0; i < HASHES; i++) invariant(filter_maybe(&filter, hashes[i]));
    invariant(false_answers(&filter) < PROBES * 9 / 1000); /* three full levels */
    filter_free(&filter);
    /* All at once, as when a book is opened. */
    invariant(filter_insert(&filter, hashes, 1, HASHES) == 0 && filter.level_count == 4);
    for (u64 i = 0; i < HASHES; i++) invariant(filter_maybe(&filter, hashes[i]));
    filter_free(&filter);
    invariant(mapped == 0);
}

static void starve_filter(void) {
    filter_t filter;
    filter_init(&filter);
    for (u64 i = 0; i < HASHES; i++) hashes[i] = draw();
    memory_left = 0;
    invariant(filter_insert(&filter, hashes, 1, 1) == -1 && filter.level_count == 0);
    memory_left = 1;
    invariant(filter_insert(&filter, hashes, 1, 4097) == -1 && filter.level_count == 0);
    invariant(mapped == 0 && !filter_maybe(&filter, hashes[0]));
    memory_left = 1;
    invariant(filter_insert(&filter, hashes, 1, 4000) == 0);
    const long before = mapped;
    for (long left = 0; left < 2; left++) { /* two more levels are needed: neither stays */
        memory_left = left;
        const u64 rest = HASHES - 4000;
        invariant(filter_insert(&filter, hashes + 4000, 1, rest) == -1);
        invariant(filter.level_count == 1 && filter.levels[0].count == 4000 && mapped == before);
    }
    u64 found = 0;
    for (u64 i = 4000; i < HASHES; i++) found += (u64)filter_maybe(&filter, hashes[i]);
    invariant(found < HASHES / 100);
    memory_left = -1; /* beyond the last level there is nothing, whatever memory there is */
    invariant(filter_insert(&filter, hashes, 1, (u64)1 << 50) == -1);
    invariant(filter.level_count == 1 && filter.levels[0].count == 4000 && mapped == before);
    invariant(filter_insert(&filter, hashes + 4000, 1, HASHES - 4000) == 0);
    for (u64 i = 0; i < HASHES; i++) invariant(filter_maybe(&filter, hashes[i]));
    filter_free(&filter);
}

static filter_t shared;
static u64 inserted; /* hashes before this one are in the filter */
static int asking = 2;

static void *ask(void *unused) {
    u64 seen = 0, at = 0;
    while (seen < HASHES) {
        seen = __atomic_load_n(&inserted, __ATOMIC_ACQUIRE);
        for (u64 i = 0; i < 64 && seen > 0; i++, at += 7919) {
            filter_prefetch(&shared, hashes[at % seen]);
            invariant(filter_maybe(&shared, hashes[at % seen]));
        }
        filter_maybe(&shared, hashes[at % HASHES]); /* perhaps just being inserted */
    }
    __atomic_fetch_sub(&asking, 1, __ATOMIC_RELEASE);
    return unused;
}

static void insert_beside_readers(void) {
    pthread_t askers[2];
    filter_init(&shared);
    for (u64 i = 0; i < HASHES; i++) hashes[i] = draw();
    for (u32 i = 0; i < 2; i++) invariant(pthread_create(&askers[i], NULL, ask, NULL) == 0);
    for (u64 done = 0, some; done < HASHES; done += some) {
        some = HASHES - done < 500 ? HASHES - done : 500;
        invariant(filter_insert(&shared, hashes + done, 1, some) == 0);
        __atomic_store_n(&inserted, done + some, __ATOMIC_RELEASE);
    }
    for (u32 i = 0; i < 2; i++) invariant(pthread_join(askers[i], NULL) == 0);
    invariant(asking == 0);
    filter_free(&shared);
}

/* ---- the hash and the filters of blocks ------------------------------------------------------ */

static void stress_hash(void) {
    for (u32 i = 0; i < 100000; i++) {
        const u64 key[2] = {draw(), draw()};
        const u128 id = (u128)draw() << 64 | draw();
        invariant(u128_tag(key, id) == (u32)(u128_hash64(key, id) >> 32));
    }
    /* One value that never changes: files hold these hashes. */
    const u64 key[2] = {1, 2};
    invariant(u128_hash64(key, 3) == 0x51A6CAD2C541ED54ull);
}

static void stress_panels(void) {
    invariant(panel_lines(0) == 1 && panel_lines(12) == 1 && panel_lines(13) == 2);
    invariant(panel_parts(63, 2) == 1 && panel_parts(63, 3) == 2 && panel_parts(1, 126) == 1);
    for (u32 block_count = 1; block_count <= PANEL_BLOCKS_MAX; block_count += 31) {
        for (u64 keys = 0; keys <= 20000; keys = 7 * keys + 40) {
            const u32 line_count = panel_lines(keys);
            const u32 part_count = panel_parts(block_count, line_count);
            panel_part_t *parts = calloc(part_count, sizeof *parts);
            u64 wrong = 0, touched = 0;
            u8 *lines = calloc(line_count, FILTER_BLOCK_BYTES);
            for (u64 i = 0; i < keys; i++) {
                hashes[i] = draw();
                filter_block_set(lines + filter_at(hashes[i], line_count), hashes[i]);
            }
            panel_place(parts, block_count, line_count, block_count - 1, lines); /* the last one */
            free(lines);
            for (u64 i = 0; i < keys + PROBES; i++) {
                u32 offset;
                const u64 hash = i < keys ? hashes[i] : draw();
                const u32 part = panel_at(hash, block_count, line_count, &offset);
                invariant(part < part_count && offset % FILTER_BLOCK_BYTES == 0);
                invariant(offset + block_count * FILTER_BLOCK_BYTES <= sizeof parts->lines);
                for (u32 j = 0; i < 2000 && j + 1 < block_count; j++) {
                    const u8 *line = parts[part].lines + offset + j * FILTER_BLOCK_BYTES;
                    for (u32 k = 0; k < FILTER_BLOCK_BYTES; k++) invariant(line[k] == 0);
                }
                const int has = filter_block_has(
                    parts[part].lines + offset + (block_count - 1) * FILTER_BLOCK_BYTES, hash);
                invariant(has || i >= keys);
                wrong += has && i >= keys;
                touched |= (u64)1 << part % 64;
            }
            invariant(part_count > 64 || touched == ~(u64)0 >> (64 - part_count));
            invariant(wrong < PROBES / 1000);
            free(parts);
        }
    }
}

/* ---- column files ---------------------------------------------------------------------------- */

enum { RECORDS_MAX = 40000, FILES = 5 };
typedef struct {
    column_writer_t writer;
    column_file_t file;
    const column_t *column;
    u8 *fences;
    u8 *records;
    u64 count;
} book_t;
static column_fault_t fault;

static int compare_pairs(const void *a, const void *b) {
    const u128 x = pair_of(a), y = pair_of(b);
    return (x > y) - (x < y);
}

static void begin(book_t *book) {
    char path[] = "/tmp/columns-XXXXXX";
    memset(book, 0, sizeof *book);
    book->writer.descriptor = mkstemp(path);
    invariant(book->writer.descriptor >= 0 && unlink(path) == 0);
    book->writer.head = column_pages_new(1);
    book->writer.pages = column_pages_new(COLUMN_WRITE_PAGES);
    memset(book->writer.head, 0, sizeof *book->writer.head);
    memcpy(book->writer.head->header.magic, column_magic, sizeof column_magic);
    book->writer.head->header.format = COLUMN_FORMAT;
    book->writer.head->header.kind = COLUMN_KIND_SEGMENT;
    book->writer.head->header.group_last = draw();
    book->writer.identity = column_identity(&book->writer.head->header);
    book->writer.page_next = 1;
}

/* Finish the file and read its header and fences back. */
static void finish(book_t *book) {
    invariant(column_finish(&book->writer, &fault) == 0);
    book->file.descriptor = book->writer.descriptor;
    book->file.identity = book->writer.identity;
    invariant(column_read_bytes(book->file.descriptor, 0, 1, book->writer.head, 0, &fault) == 0);
    const u64 bytes = (u64)lseek(book->file.descriptor, 0, SEEK_END);
    invariant(column_header_wrong(book->writer.head, bytes) == NULL);
    book->column = &book->writer.head->header.columns[0];
    book->fences = malloc(book->column->page_count * PAIR_BYTES + 1);
    invariant(column_load_fences(&book->file, book->column, book->fences, &fault) == 0);
}

static void write_book(book_t *book, u32 record_bytes, u64 count, u64 keys, u64 value_step) {
    begin(book);
    book->records = calloc(count + 1, record_bytes);
    for (u64 i = 0; i < count; i++) {
        u64 pair[2] = {draw() % keys, draw() / FILES * FILES + value_step};
        memcpy(book->records + i * record_bytes, pair, sizeof pair);
    }
    qsort(book->records, count, record_bytes, compare_pairs);
    book->count = count;
    invariant(column_begin(&book->writer, COLUMN_ROWS, record_bytes, &fault) == 0);
    for (u64 done = 0, some; done < count; done += some) {
        some = 1 + draw() % 3000;
        if (some > count - done) some = count - done;
        const u8 *records = book->records + done * record_bytes;
        invariant(column_append(&book->writer, records, some, &fault) == 0);
    }
    finish(book);
    invariant(book->column->count == count);
}

static void free_book(book_t *book) {
    close(book->writer.descriptor);
    free(book->writer.head);
    free(book->writer.pages);
    free(book->writer.fences);
    free(book->fences);
    free(book->records);
}

static void check_searches(const book_t *book, u64 keys) {
    const column_t *column = book->column;
    const u32 record_bytes = column->record_bytes;
    u64 asked[200], wanted = 0, below = 0, end = 0;
    column_found_t found = {0};
    for (u32 i = 0; i < 200; i++) asked[i] = draw() % (keys + 2);
    invariant(column_find(&book->file, column, book->fences, asked, 200, &found, &fault) == 0);
    for (u32 i = 0; i < 200; i++)
        for (u64 j = 0; j < book->count; j++)
            wanted += pair_key(book->records + j * record_bytes) == asked[i];
    invariant(found.count == wanted);
    for (u64 i = 0; i < found.count; i++) {
        const u64 pair[2] = {asked[found.queries[i]], found.values[i]};
        invariant(bsearch(pair, book->records, book->count, record_bytes, compare_pairs));
    }
    column_found_free(&found);
    for (u32 i = 0; i < 20; i++) {
        const u64 low = draw(), high = draw();
        invariant(column_find_range(&book->file, column, book->fences, asked[i], low, high,
                                    &below, &end, &fault) == 0);
        for (u64 j = 0; j < book->count; j++) {
            const u128 pair = pair_of(book->records + j * record_bytes);
            const int inside = pair >= ((u128)asked[i] << 64 | low) &&
                               pair <= ((u128)asked[i] << 64 | high);
            invariant(inside == (j >= below && j < end));
        }
    }
}

static void check_copies(const book_t *book) {
    const u32 record_bytes = book->column->record_bytes;
    const u32 taken[] = {sizeof(u64), PAIR_BYTES, record_bytes};
    for (u32 i = 0; i < 12; i++) {
        u64 first = draw() % (book->count + 1), end = draw() % (book->count + 1);
        if (first > end) {
            const u64 swapped = first;
            first = end;
            end = swapped;
        }
        const u32 bytes = taken[i % 3];
        u8 *out = malloc((end - first) * bytes + 1);
        invariant(column_copy(&book->file, book->column, first, end, bytes, out, &fault) == 0);
        for (u64 j = first; j < end; j++)
            invariant(!memcmp(out + (j - first) * bytes, book->records + j * record_bytes, bytes));
        free(out);
    }
    column_page_t *pages = column_pages_new(COLUMN_READ_PAGES);
    invariant(column_prove(&book->file, book->column, book->fences, pages, &fault) == 0);
    free(pages);
}

static void check_merge(book_t *books, u32 record_bytes, u64 total) {
    column_source_t sources[FILES];
    column_page_t *buffers = column_pages_new(FILES * COLUMN_MERGE_PAGES);
    u8 *out = malloc(COLUMN_MERGE_BYTES), *all = calloc(total + 1, record_bytes);
    book_t merged;
    u64 at = 0;
    u32 blamed;
    begin(&merged);
    for (u32 i = 0; i < FILES; i++) {
        sources[i] = (column_source_t){&books[i].file, books[i].column, 0,
                                       buffers + i * COLUMN_MERGE_PAGES, i};
        memcpy(all + at * record_bytes, books[i].records, books[i].count * record_bytes);
        at += books[i].count;
    }
    qsort(all, total, record_bytes, compare_pairs);
    invariant(column_begin(&merged.writer, COLUMN_ROWS, record_bytes, &fault) == 0);
    invariant(column_merge(sources, FILES, &merged.writer, out, &blamed, &fault) == 0);
    finish(&merged);
    merged.records = all;
    merged.count = total;
    invariant(merged.column->count == total);
    check_copies(&merged);
    free(buffers);
    free(out);
    free_book(&merged);
}

static void stress_files(void) {
    const u32 lengths[] = {16, 96, 1008, 2032, COLUMN_BLOCKS_BYTES};
    for (u32 i = 0; i < 5; i++) {
        book_t books[FILES];
        const u64 most = RECORDS_MAX * 16 / lengths[i], keys = 1 + draw() % most;
        u64 total = 0;
        for (u32 j = 0; j < FILES; j++) {
            const u64 count = j == 0 ? most : j == 1 ? 0 : draw() % most;
            write_book(&books[j], lengths[i], count, keys, j);
            check_searches(&books[j], keys);
            check_copies(&books[j]);
            total += count;
        }
        check_merge(books, lengths[i], total);
        for (u32 j = 0; j < FILES; j++) free_book(&books[j]);
    }
}

/* A search that finds no memory says so and leaves none behind. */
static void starve_searches(void) {
    book_t book;
    column_found_t found = {0};
    write_book(&book, 16, 5000, 3, 0);
    const u64 key = 1;
    u8 *out = malloc(5000 * 16);
    int failed = 0;
    for (long left = 0;; left++) {
        memory_left = left;
        fault.error = 0;
        const int one = column_find(&book.file, book.column, book.fences, &key, 1, &found, &fault);
        column_found_free(&found);
        if (one == 0) break;
        invariant(fault.error == COLUMN_FAULT_MEMORY);
        failed++;
    }
    invariant(failed >= 5); /* queries, plan, pages, and what was found, which grows */
    memory_left = 0;
    invariant(column_copy(&book.file, book.column, 0, 9, 16, out, &fault) == -1);
    invariant(fault.error == COLUMN_FAULT_MEMORY);
    memory_left = -1;
    free(out);
    free_book(&book);
}

int main(int count, char **arguments) {
    invariant(count == 3);
    const char *part = arguments[1];
    seed_state = strtoull(arguments[2], NULL, 10);
    if (!strcmp(part, "filter"))
        for (int i = 0; i < 4; i++) stress_filter(i & 1, 1 + (u64)(i >> 1));
    else if (!strcmp(part, "growth")) grow_filter();
    else if (!strcmp(part, "starved")) starve_filter();
    else if (!strcmp(part, "beside")) insert_beside_readers();
    else if (!strcmp(part, "hash")) stress_hash();
    else if (!strcmp(part, "blocks")) stress_panels();
    else if (!strcmp(part, "files")) stress_files();
    else if (!strcmp(part, "searches")) starve_searches();
    else invariant(!"a part that exists");
    return 0;
}
