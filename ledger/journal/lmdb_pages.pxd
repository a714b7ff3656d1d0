# The C of lmdb_pages.h as Cython sees it: only the names that .pyx code uses.

from ledger.base.types cimport u8, u64

cdef extern from "journal/lmdb_pages.h" nogil:
    ctypedef struct lmdb_file_t:
        pass
    ctypedef struct lmdb_value_t:
        u64 at, bytes
    bint lmdb_read(int descriptor, void *to, u64 bytes, u64 at, int flags)
    bint lmdb_begin(lmdb_file_t *file, int descriptor, u64 snapshot)
    bint lmdb_find(lmdb_file_t *file, const u8 *key, u64 key_bytes, lmdb_value_t *value)
    bint lmdb_begins(const lmdb_file_t *file, const lmdb_value_t *value, const void *before)
