# The C of slab.h as Cython sees it, and of memory that the compiler knows: only the names that .pyx
# and .pxi code uses.

from libc.stddef cimport size_t

from ledger.base.types cimport u8, u32, u64

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from * nogil:
    void __builtin_prefetch(const void *)

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
