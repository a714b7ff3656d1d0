# The C of u128.h as Cython sees it: only the names that .pyx and .pxi code uses.

from ledger.base.types cimport u32, u64, u128

cdef extern from "base/u128.h" nogil:
    bint u128_add_overflows(u128, u128)
    bint u128_add3_overflows(u128, u128, u128)
    u128 u128_min(u128, u128)
    u128 u128_sub_floor(u128, u128)
    u128 u128_load(const void *)
    u32 u128_tag(const u64 *, u128)
    u64 u128_hash64(const u64 *, u128)
    u128 u128_chain(u128, u128)
