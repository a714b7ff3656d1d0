# The C of types.h as Cython sees it. u128 is declared as 64 bits wide because Cython knows no wider
# integer: never convert one to a Python object.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "base/types.h" nogil:
    ctypedef unsigned long long u128
    ctypedef uint64_t u64
    ctypedef uint32_t u32
    ctypedef uint16_t u16
    ctypedef uint8_t u8

    void invariant(bint condition)
    void verify(bint condition)
    enum:
        VERIFIES
    u128 U128_MAX
