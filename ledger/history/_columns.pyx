# cython: language_level=3
"""Column files: sorted records on disk, written once, searched and merged; every page is checked.

A file is made by one ColumnWriter and read by any number of threads through a ColumnFile. Layout
and searches are in column_format.h, reads and writes in column_file.h; here they meet Python:
arguments are judged, memory is handed over, faults become errors. No thread holds the interpreter
while it reads, writes, checks, sorts or merges. Nothing here knows what a key or a value stands
for, where records come from, or which files there are.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT32_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_descriptor

from ledger.base.bloom cimport *
from ledger.base.merge cimport *
from ledger.base.sort cimport *
from ledger.facts.record cimport u8, u16, u32, u64, u128
from ledger.history.column_file cimport *
from ledger.history.column_format cimport *

import os
import stat

import numpy

from ledger.facts.errors import ColumnDamaged, DataRefused

cdef extern from "base/u128.h" nogil:
    u64 u128_hash64(const u64 *key, u128 id)
    u128 u128_load(const void *)

cdef extern from * nogil:
    """
    typedef struct { const char *name; u32 number, bytes; } listed_t;
    #define AS_LISTED(name, number, bytes, doc) {#name, (number), (bytes)},
    static const listed_t column_list[] = {COLUMNS(AS_LISTED) {0}};
    """
    ctypedef struct listed_t:
        const char *name
        u32 number, bytes
    const listed_t column_list[]

SEGMENT = COLUMN_KIND_SEGMENT
CHECKPOINT = COLUMN_KIND_CHECKPOINT
RECORD_BYTES = {}
cdef const listed_t *listed = column_list
while listed.name != NULL:  # IDS and the others, by the names that column_format.h gives them
    globals()[listed.name.decode()] = listed.number
    RECORD_BYTES[listed.number] = listed.bytes
    listed += 1
PAGE_BYTES = COLUMN_PAGE_BYTES
PAYLOAD_BYTES = COLUMN_PAYLOAD_BYTES
STEP_BYTES = COLUMN_STEP_PAGES * COLUMN_PAGE_BYTES
FACTS_BYTES_MAX = COLUMN_FACTS_BYTES_MAX
COLUMNS_MAX = COLUMN_COLUMNS_MAX
MERGE_MAX = MERGE_STREAMS_MAX
BLOCK_TRANSFERS = BLOCK_TRANSFERS_MAX
FIELD_USER_DATA_128 = BLOCK_FIELD_USER_DATA_128
FIELD_USER_DATA_64 = BLOCK_FIELD_USER_DATA_64
FIELD_USER_DATA_32 = BLOCK_FIELD_USER_DATA_32
FIELD_CODE = BLOCK_FIELD_CODE
FIELD_LEDGER = BLOCK_FIELD_LEDGER


cdef object refusal(column_fault_t *fault, str path):
    """What to raise for a fault of the file at `path`."""
    if fault.error == COLUMN_FAULT_DAMAGED:
        return ColumnDamaged(path, f"page {fault.at} is damaged")
    if fault.error == COLUMN_FAULT_ENDED:
        return ColumnDamaged(path, f"the file ends before page {fault.at}")
    if fault.error == COLUMN_FAULT_MEMORY:
        return MemoryError(f"{path}: no memory to work on it")
    if fault.error == COLUMN_FAULT_ORDER:
        return ValueError(f"{path}: record {fault.at} does not come after the one before it")
    return OSError(fault.error, os.strerror(fault.error), path)


# ---- writing ------------------------------------------------------------------------------------

cdef class ColumnWriter:
    cdef readonly str path
    cdef column_writer_t writer

    def __cinit__(self, path, *, int kind, cluster, u64 group_first, u64 group_last,
                  u64 position_last, bytes digest not None, u64 windows):
        cdef bytes cluster_bytes = cluster.to_bytes(sizeof(u128), "little")
        cdef column_header_t *header
        if kind not in (COLUMN_KIND_SEGMENT, COLUMN_KIND_CHECKPOINT):
            raise ValueError(f"kind {kind} is neither SEGMENT nor CHECKPOINT")
        if len(digest) != COLUMN_DIGEST_BYTES:
            raise ValueError(f"a digest of {len(digest)} bytes: {COLUMN_DIGEST_BYTES} expected")
        self.path = os.fspath(path)
        self.writer.descriptor = -1
        self.writer.head = column_pages_new(1)
        self.writer.pages = column_pages_new(COLUMN_WRITE_PAGES)
        if self.writer.head == NULL or self.writer.pages == NULL:
            raise MemoryError("the pages of a column file")
        memset(self.writer.head, 0, COLUMN_PAGE_BYTES)
        header = &self.writer.head.header
        memcpy(header.magic, column_magic, 8)
        header.format = COLUMN_FORMAT
        header.kind = <u16>kind
        memcpy(&header.cluster, <const char *>cluster_bytes, sizeof(u128))
        header.group_first = group_first
        header.group_last = group_last
        header.position_last = position_last
        memcpy(header.digest, <const char *>digest, COLUMN_DIGEST_BYTES)
        header.windows = windows
        self.writer.identity = column_identity(header)
        self.writer.page_next = 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.writer.descriptor = os.open(self.path, flags, 0o600)

    def __dealloc__(self):
        if self.writer.head != NULL and self.writer.descriptor >= 0:
            close_descriptor(self.writer.descriptor)
        free(self.writer.head)
        free(self.writer.pages)
        free(self.writer.fences)

    cdef int check_open(self) except -1:
        if self.writer.descriptor < 0:
            raise ValueError(f"{self.path}: the writer is closed")
        return 0

    cdef int give_up(self, column_fault_t *fault) except -1:
        """What failed is not tried again: what the file holds is unknown."""
        self.close()
        raise refusal(fault, self.path)

    def column(self, u32 column, u32 record_bytes):
        cdef column_header_t *header
        cdef column_fault_t fault
        cdef int failed
        cdef u32 i
        self.check_open()
        header = &self.writer.head.header
        if not 0 < record_bytes <= COLUMN_PAYLOAD_BYTES or record_bytes % COLUMN_RECORD_STEP:
            raise ValueError(
                f"records of {record_bytes} bytes: a multiple of {COLUMN_RECORD_STEP} up to "
                f"{COLUMN_PAYLOAD_BYTES} expected")
        if header.column_count == COLUMN_COLUMNS_MAX:
            raise ValueError(f"{self.path}: more than {COLUMN_COLUMNS_MAX} columns")
        for i in range(header.column_count):
            if header.columns[i].column == column:
                raise ValueError(f"{self.path}: column {column} is already there")
        with nogil:
            failed = column_begin(&self.writer, column, record_bytes, &fault)
        if failed:
            self.give_up(&fault)

    def append(self, records):
        cdef Py_buffer view
        cdef column_fault_t fault
        cdef int failed
        cdef u64 record_bytes
        self.check_open()
        if self.writer.column == NULL:
            raise ValueError(f"{self.path}: no column is begun")
        record_bytes = self.writer.column.record_bytes
        PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
        try:
            if view.len % record_bytes:
                raise ValueError(f"{view.len} bytes are not whole records of {record_bytes}")
            with nogil:
                failed = column_append(
                    &self.writer, <const u8 *>view.buf, view.len // record_bytes, &fault)
        finally:
            PyBuffer_Release(&view)
        if failed:
            self.give_up(&fault)

    def finish(self, bytes facts not None=b""):
        cdef column_header_t *header
        cdef column_fault_t fault
        cdef int failed
        self.check_open()
        if len(facts) > COLUMN_FACTS_BYTES_MAX:
            raise ValueError(f"{len(facts)} bytes of facts: at most {COLUMN_FACTS_BYTES_MAX}")
        header = &self.writer.head.header
        header.facts_bytes = <u32>len(facts)
        memcpy(header.facts, <const char *>facts, len(facts))
        with nogil:
            failed = column_finish(&self.writer, &fault)
        if failed:
            self.give_up(&fault)
        self.close()

    def close(self):
        if self.writer.descriptor >= 0:
            descriptor, self.writer.descriptor = self.writer.descriptor, -1
            os.close(descriptor)


# ---- reading ------------------------------------------------------------------------------------

BLOCK = numpy.dtype({
    "names": ["place_first", "timestamp_first", "timestamp_last", "group_last", "panel", "index",
              "transfers"],
    "formats": ["<u8", "<u8", "<u8", "<u8", "<u8", "<u4", "<u4"],
})

# What a file lacks is an empty column.
cdef column_t no_column
memset(&no_column, 0, sizeof(column_t))
no_column.record_bytes = PAIR_BYTES


cdef class ColumnFile:
    cdef readonly str path
    cdef readonly u16 kind
    cdef readonly object cluster
    cdef readonly u64 group_first, group_last, position_last, windows
    cdef readonly object digest, facts
    cdef u64 file_bytes
    cdef column_file_t file
    cdef column_page_t *head
    cdef u8 *fences[COLUMN_COLUMNS_MAX]  # of the header's columns; NULL until loaded, then kept
    cdef u32 readers  # calls under way: the last one closes what was closed meanwhile
    cdef bint closed

    def __cinit__(self, path):
        cdef column_header_t *header
        cdef column_fault_t fault
        cdef const char *wrong
        self.path = os.fspath(path)
        self.file.descriptor = -1
        self.head = column_pages_new(1)
        if self.head == NULL:
            raise MemoryError("the header of a column file")
        # A pipe of this name must not make who opens it wait for a writer.
        self.file.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self.file.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataRefused(f"{self.path}: not a file")
        self.file_bytes = status.st_size
        if self.file_bytes < COLUMN_PAGE_BYTES:
            raise DataRefused(f"{self.path}: too short for a column file")
        if column_read_bytes(self.file.descriptor, 0, 1, self.head, 0, &fault):
            raise refusal(&fault, self.path)
        wrong = column_header_wrong(self.head, self.file_bytes)
        if wrong != NULL:
            raise DataRefused(f"{self.path}: {wrong.decode()}")
        header = &self.head.header
        self.file.identity = column_identity(header)
        self.kind = header.kind
        self.cluster = int.from_bytes(
            PyBytes_FromStringAndSize(<char *>&header.cluster, sizeof(u128)), "little")
        self.group_first = header.group_first
        self.group_last = header.group_last
        self.position_last = header.position_last
        self.digest = PyBytes_FromStringAndSize(<char *>header.digest, COLUMN_DIGEST_BYTES)
        self.windows = header.windows
        self.facts = PyBytes_FromStringAndSize(<char *>header.facts, header.facts_bytes)

    def __dealloc__(self):
        cdef u32 i
        if self.head != NULL and self.file.descriptor >= 0:
            # The last one of a file that was removed frees all its pages, which takes a while.
            with nogil:
                close_descriptor(self.file.descriptor)
        for i in range(<u32>COLUMN_COLUMNS_MAX):
            free(self.fences[i])
        free(self.head)

    @property
    def bytes(self):
        return self.file_bytes

    cdef int enter(self) except -1:
        if self.closed:
            raise ValueError(f"{self.path}: the file is closed")
        self.readers += 1
        return 0

    cdef int leave(self, int failed=0, column_fault_t *fault=NULL) except -1:
        self.readers -= 1
        self.close_unread()
        if failed:
            raise refusal(fault, self.path)
        return 0

    cdef int close_unread(self) except -1:
        if self.closed and self.readers == 0 and self.file.descriptor >= 0:
            descriptor, self.file.descriptor = self.file.descriptor, -1
            os.close(descriptor)
        return 0

    def close(self):
        self.closed = True
        self.close_unread()

    cdef const column_t *column_of(self, u32 column) noexcept:
        cdef u32 i
        for i in range(self.head.header.column_count):
            if self.head.header.columns[i].column == column:
                return &self.head.header.columns[i]
        return &no_column

    cdef const column_t *range_of(self, u32 column, u64 first, u64 end) except NULL:
        cdef const column_t *found = self.column_of(column)
        if not first <= end <= found.count:
            raise ValueError(
                f"{self.path}: records {first} to {end} of column {column}, which has "
                f"{found.count}")
        return found

    cdef const u8 *fences_of(self, const column_t *column) except? NULL:
        """The fences of a column; NULL for one without pages."""
        cdef column_fault_t fault
        cdef int failed
        cdef u8 *fences
        cdef Py_ssize_t i
        if column.page_count == 0:
            return NULL
        if not column_keyed(column):
            raise ValueError(f"{self.path}: column {column.column} is not sorted by a key")
        i = column - self.head.header.columns
        if self.fences[i] == NULL:
            self.enter()
            fences = <u8 *>malloc(column.page_count * PAIR_BYTES)
            failed = -1
            if fences == NULL:
                column_fail(&fault, COLUMN_FAULT_MEMORY, 0)
            else:
                with nogil:
                    failed = column_load_fences(&self.file, column, fences, &fault)
            # Another thread may have loaded them meanwhile, and then they are in use.
            if failed == 0 and self.fences[i] == NULL:
                self.fences[i] = fences
            else:
                free(fences)
            self.leave(failed, &fault)
        return self.fences[i]

    def load_fences(self):
        cdef u32 i
        for i in range(self.head.header.column_count):
            if column_keyed(&self.head.header.columns[i]):
                self.fences_of(&self.head.header.columns[i])

    def count(self, u32 column):
        return self.column_of(column).count

    def lookup(self, u32 column, const u64[::1] keys):
        cdef const column_t *where = self.column_of(column)
        cdef const u8 *fences = self.fences_of(where)
        cdef column_found_t found
        cdef column_fault_t fault
        cdef u64 count = keys.shape[0]
        cdef int failed
        if count > UINT32_MAX:
            raise ValueError(f"{count} keys: at most {UINT32_MAX}")
        memset(&found, 0, sizeof(found))
        self.enter()
        with nogil:
            failed = column_find(&self.file, where, fences, &keys[0], count, &found, &fault)
        try:
            self.leave(failed, &fault)
            queries = numpy.empty(found.count, numpy.uint32)
            values = numpy.empty(found.count, numpy.uint64)
            copy_to(queries, found.queries)
            copy_to(values, found.values)
        finally:
            column_found_free(&found)
        return queries, values

    def bounds(self, u32 column, u64 key, u64 value_low, u64 value_high):
        cdef const column_t *where = self.column_of(column)
        cdef const u8 *fences = self.fences_of(where)
        cdef column_fault_t fault
        cdef u64 first, end
        cdef int failed
        self.enter()
        with nogil:
            failed = column_find_range(
                &self.file, where, fences, key, value_low, value_high, &first, &end, &fault)
        self.leave(failed, &fault)
        return first, end

    cdef object copied(self, const column_t *column, u64 first, u64 end, u64 taken_bytes):
        """The first bytes of each of these records: array of uint8, (end - first, taken_bytes)."""
        cdef column_fault_t fault
        cdef int failed
        out = numpy.empty((end - first, taken_bytes), numpy.uint8)
        cdef u8[:, ::1] view = out
        self.enter()
        with nogil:
            failed = column_copy(
                &self.file, column, first, end, taken_bytes, &view[0, 0], &fault)
        self.leave(failed, &fault)
        return out

    def records(self, u32 column, u64 first, u64 end):
        cdef const column_t *where = self.range_of(column, first, end)
        return self.copied(where, first, end, where.record_bytes)

    def keys(self, u32 column, u64 first, u64 end):
        return self.copied(self.range_of(column, first, end), first, end, sizeof(u64)).view(
            numpy.uint64)[:, 0]

    def blocks(self, u64 first, u64 end):
        cdef const column_t *where = self.range_of(COLUMN_BLOCKS, first, end)
        return self.copied(where, first, end, sizeof(block_t)).view(BLOCK)[:, 0]

    def blocks_maybe(self, u64 first, u64 end, const u64[::1] hashes):
        cdef const column_t *where = self.column_of(COLUMN_PANELS)
        cdef u64 count = hashes.shape[0], made = 0, number
        cdef u32 index
        cdef column_fault_t fault
        cdef int failed
        self.range_of(COLUMN_BLOCKS, first, end)
        if count == 0 or first == end:
            return numpy.arange(first, end, dtype=numpy.uint32)
        [block] = self.blocks(first, first + 1)
        number, after = self.bounds(COLUMN_PANELS, block["panel"], 0, 0)
        if number == after:
            raise ColumnDamaged(self.path, f"no panel begins at {block['panel']:#x}")
        index = block["index"]
        out = numpy.empty(end - first, numpy.uint32)
        cdef u32[::1] view = out
        self.enter()
        with nogil:
            failed = block_select(&self.file, where, number, index, first, end - first, &hashes[0],
                                  count, &view[0], &made, &fault)
        self.leave(failed, &fault)
        return out[:made]

    def block_at(self, u64 timestamp):
        cdef const column_t *where = self.column_of(COLUMN_BLOCKS)
        cdef column_fault_t fault
        cdef u64 number
        cdef int failed
        self.enter()
        with nogil:
            failed = block_find(&self.file, where, timestamp, &number, &fault)
        self.leave(failed, &fault)
        return number

    def verify(self):
        cdef column_page_t *pages = column_pages_new(COLUMN_READ_PAGES)
        cdef const column_t *column
        cdef const u8 *fences
        cdef column_fault_t fault
        cdef int failed
        cdef u32 i
        if pages == NULL:
            raise MemoryError("the pages of a column file")
        try:
            for i in range(self.head.header.column_count):
                column = &self.head.header.columns[i]
                fences = self.fences_of(column) if column_keyed(column) else NULL
                self.enter()
                with nogil:
                    failed = column_prove(&self.file, column, fences, pages, &fault)
                self.leave(failed, &fault)
        finally:
            free(pages)


cdef int copy_to(out, const void *source) except -1:
    """Fill an array with what lies at `source`."""
    cdef Py_buffer view
    PyObject_GetBuffer(out, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    memcpy(view.buf, source, view.len)
    PyBuffer_Release(&view)
    return 0


# ---- sorting, merging, hashing ------------------------------------------------------------------

def sort_pairs(u64[:, ::1] pairs):
    cdef u64 count = pairs.shape[0]
    cdef pair_t *scratch
    if pairs.shape[1] != 2:
        raise ValueError(f"rows of {pairs.shape[1]}: 2 expected")
    if count == 0:
        return
    scratch = <pair_t *>malloc(count * sizeof(pair_t))
    if scratch == NULL:
        raise MemoryError(f"scratch for {count} pairs")
    with nogil:
        pair_sort(<pair_t *>&pairs[0, 0], scratch, count)
    free(scratch)


def merge(files, ColumnWriter writer not None, u32 column):
    cdef column_source_t[MERGE_STREAMS_MAX] sources
    cdef const column_t *where
    cdef column_fault_t fault
    cdef u32 count = 0, blamed, record_bytes = 0, i
    cdef int failed
    cdef ColumnFile one
    cdef column_page_t *buffers
    cdef u8 *out
    held = list(files)
    if len(held) > MERGE_STREAMS_MAX:
        raise ValueError(f"{len(held)} files: at most {MERGE_STREAMS_MAX}")
    for i in range(<u32>len(held)):
        one = held[i]
        where = one.column_of(column)
        if one.closed:
            raise ValueError(f"{one.path}: the file is closed")
        if where == &no_column:
            continue
        if not column_keyed(where) or where.record_bytes != (record_bytes or where.record_bytes):
            raise ValueError(f"{one.path}: column {column} cannot be merged with the others")
        record_bytes = where.record_bytes
        memset(&sources[count], 0, sizeof(column_source_t))
        sources[count].file = &one.file
        sources[count].column = where
        sources[count].number = i
        count += 1
    if count == 0:
        return 0
    writer.column(column, record_bytes)
    buffers = column_pages_new(count * COLUMN_MERGE_PAGES)
    out = <u8 *>malloc(COLUMN_MERGE_BYTES)
    if buffers == NULL or out == NULL:
        free(buffers)
        free(out)
        raise MemoryError("the pages of a merge")
    for i in range(count):
        sources[i].buffer = buffers + i * COLUMN_MERGE_PAGES
    for one in held:
        one.enter()
    with nogil:
        failed = column_merge(sources, count, &writer.writer, out, &blamed, &fault)
    free(out)
    free(buffers)
    for one in held:
        one.leave()
    if failed and blamed == UINT32_MAX:
        writer.give_up(&fault)
    if failed:
        one = held[blamed]
        raise refusal(&fault, one.path)
    return writer.writer.column.count


cdef int key_of(bytes key, u64 *words) except -1:
    if len(key) != 2 * sizeof(u64):
        raise ValueError(f"a key of {len(key)} bytes: {2 * sizeof(u64)} expected")
    memcpy(words, <const char *>key, 2 * sizeof(u64))
    return 0


def hash_ids(ids, bytes key not None):
    cdef Py_buffer view
    cdef u64 words[2]
    cdef Py_ssize_t count
    key_of(key, words)
    PyObject_GetBuffer(ids, &view, PyBUF_SIMPLE)
    try:
        count = view.len // <Py_ssize_t>sizeof(u128)
        if view.len % sizeof(u128):
            raise ValueError(f"{view.len} bytes are not whole ids")
        out = numpy.empty(count, numpy.uint64)
        hash_into(words, <const u8 *>view.buf, count, out)
    finally:
        PyBuffer_Release(&view)
    return out


cdef int hash_into(const u64 *key, const u8 *ids, Py_ssize_t count, u64[::1] out) except -1:
    cdef Py_ssize_t i
    with nogil:
        for i in range(count):
            out[i] = u128_hash64(key, u128_load(ids + i * <Py_ssize_t>sizeof(u128)))
    return 0


def hash_field(bytes key not None, u32 field, value):
    cdef u64 words[2]
    cdef bytes value_bytes = value.to_bytes(sizeof(u128), "little")
    key_of(key, words)
    return block_hash(words, field, u128_load(<const char *>value_bytes))
