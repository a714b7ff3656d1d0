# The C of hash_table.h as Cython sees it: only the names that .pyx and .pxi code uses.

from ledger.base.types cimport u32, u64

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
