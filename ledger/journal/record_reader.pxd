# What Cython sees of record_reader.h: records at addresses in the journal, and a body that is read
# while a call looks into it. Nothing is decided here.

from libc.stdint cimport int64_t

from ledger.base.types cimport u8, u64, u128
from ledger.journal.lmdb_pages cimport lmdb_file_t

cdef extern from "journal/record_reader.h" nogil:
    enum:
        BLOCK_CHECK_BYTES, BODY_BYTES_END, NO_BLOCK, NOT_A_RECORD, VALUE_AT
    u64 block_count(u64 body_bytes)
    u64 place_group(u64 place)
    u64 place_offset(u64 place)
    ctypedef struct body_t:
        u64 length, group
        int64_t bad
    void body_init(body_t *b, const u8 *bytes, u64 length, const u8 *checks, u64 group)
    bint body_read(body_t *b, u64 offset, void *to, u64 length)
    void body_take(body_t *b, const u64 *places, u64 count, u8 *out)
    void body_ahead(const body_t *b, u64 offset, u64 length)
    ctypedef struct held_t:
        u64 group, end
        bint taken
    ctypedef struct reader_t:
        lmdb_file_t file
        u128 cluster
    u64 held_split(held_t *helds, u64 room, const u64 *places, u64 count)
    void reader_take(reader_t *r, held_t *helds, u64 count, const u64 *places, u8 *out)
    void reader_ahead(reader_t *r, u64 place, u64 group_last, u64 bytes)
    ctypedef struct apart_t:
        pass
    bint apart_begin(apart_t *a, reader_t *r, u64 group, body_t *b)
