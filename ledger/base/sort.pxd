# The C of sort.h as Cython sees it: only the names that .pyx and .pxi code uses.

from ledger.base.types cimport u64

cdef extern from "base/sort.h" nogil:
    enum:
        PAIR_BYTES
    ctypedef struct pair_t:
        u64 key, value
    void pair_sort_by_key(pair_t *pairs, pair_t *scratch, u64 count)
    void pair_sort(pair_t *pairs, pair_t *scratch, u64 count)
