# The C of bloom.h as Cython sees it: only the names that .pyx and .pxi code uses.

from ledger.base.types cimport u8, u32, u64

cdef extern from "base/bloom.h" nogil:
    ctypedef struct filter_t:
        u32 level_count
    void filter_init(filter_t *)
    void filter_free(filter_t *)
    int filter_expect(filter_t *, u64 count)
    int filter_insert(filter_t *, const u64 *hashes, u64 stride, u64 count)
    bint filter_maybe(const filter_t *, u64 hash)
    void filter_prefetch(const filter_t *, u64 hash)
    u64 filter_at(u64 hash, u64 block_count)
    void filter_block_set(u8 *block, u64 hash)
