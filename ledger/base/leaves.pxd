# The C of u128.h, slab.h and hash_table.h as Cython sees it: only the names that .pyx and .pxi code
# uses.

from libc.stddef cimport size_t

from ledger.base.types cimport u8, u32, u64, u128

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from * nogil:
    void __builtin_prefetch(const void *)

cdef extern from "base/u128.h" nogil:
    bint u128_add_overflows(u128, u128)
    bint u128_add3_overflows(u128, u128, u128)
    u128 u128_min(u128, u128)
    u128 u128_sub_floor(u128, u128)
    u128 u128_load(const void *)
    u32 u128_tag(const u64 *, u128)
    u64 u128_hash64(const u64 *, u128)
    u128 u128_chain(u128, u128)

cdef extern from "base/slab.h" nogil:
    ctypedef struct slab_t:
        u8 **chunks
        u64 count, capacity, chunk_count
        u32 record_bytes, shift
        bint scattered
    void slab_init(slab_t *, u32)
    int slab_init_ring(slab_t *, u32)
    void slab_forget(slab_t *, u64)
    void slab_free(slab_t *)
    void *slab_at(const slab_t *, u64)
    void *slab_of(const slab_t *, u64, u32)
    int slab_reserve(slab_t *, u64)
    void *slab_append(slab_t *)
    void *slab_append_of(slab_t *, u32)
    void slab_copy(void *, const void *, size_t)
    void slab_stream(void *, const void *, size_t)
    void slab_publish()

cdef extern from "base/hash_table.h" nogil:
    enum:
        TABLE_NONE
    ctypedef struct table_part_t:
        u32 count
    ctypedef struct table_t:
        u64 count
    int table_init(table_t *)
    void table_clear(table_t *)
    void table_free(table_t *)
    int table_reserve(table_t *, u64)
    void table_insert(table_t *, u32, u32)
    void table_remove(table_t *, u32, u32)
    table_part_t *table_part(const table_t *, u32)
    u32 table_home(u32)
    u32 table_next(const table_part_t *, u32, u32 *)
    void table_prefetch(const table_t *, u32)
