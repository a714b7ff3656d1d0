"""Leaf: the AEGIS-128L check for Python: of one stretch, and of the blocks of a journal group.

A group's body carries eight bytes of check for each started block of 4,096 bytes. The group's
number and the block's index are absorbed after the block's bytes, so a block that is intact but in
the wrong place is found too. This file knows neither what a body holds nor where it is kept.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp, memcpy

from ledger.record cimport u8, u64, u128

cdef extern from "aegis.h" nogil:
    ctypedef struct aegis_path_t:
        pass
    ctypedef struct aegis_t:
        pass
    const aegis_path_t aegis_portable_path "aegis_portable"
    const aegis_path_t *aegis_best()
    void aegis_begin(aegis_t *check, const aegis_path_t *path)
    void aegis_absorb(aegis_t *check, const void *input, size_t bytes)
    void aegis_finish(aegis_t *check, u8 *tag)
    u128 aegis_of(const aegis_path_t *path, const void *input, size_t bytes)
    enum:
        AEGIS_TAG_BYTES

cdef enum:
    BLOCK_BYTES = 4096
    BLOCK_CHECK_BYTES = 8


cdef bytes tag_of(object buffer, const aegis_path_t *path):
    cdef Py_buffer view
    cdef u128 tag
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            tag = aegis_of(path, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return PyBytes_FromStringAndSize(<char *> &tag, AEGIS_TAG_BYTES)


def aegis(buffer, /) -> bytes:
    return tag_of(buffer, aegis_best())


def aegis_portable(buffer, /) -> bytes:
    return tag_of(buffer, &aegis_portable_path)


cdef void check_block(
    const u8 *block, size_t length, u64 group, u64 index, u8 *check
) noexcept nogil:
    cdef aegis_t state
    cdef u8[AEGIS_TAG_BYTES] tag
    cdef u64[2] place = [group, index]
    aegis_begin(&state, aegis_best())
    aegis_absorb(&state, block, length)
    aegis_absorb(&state, place, sizeof(place))
    aegis_finish(&state, tag)
    memcpy(check, tag, BLOCK_CHECK_BYTES)


def blocks(body, group: int) -> bytes:
    cdef u64 number = group
    cdef Py_buffer view
    cdef Py_ssize_t count, index
    cdef bytes checks
    cdef u8 *out
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        count = (view.len + BLOCK_BYTES - 1) // BLOCK_BYTES
        checks = PyBytes_FromStringAndSize(NULL, count * BLOCK_CHECK_BYTES)
        out = <u8 *> PyBytes_AS_STRING(checks)
        with nogil:
            for index in range(count):
                check_block(
                    <u8 *> view.buf + index * BLOCK_BYTES,
                    min(view.len - index * BLOCK_BYTES, BLOCK_BYTES),
                    number, index, out + index * BLOCK_CHECK_BYTES)
    finally:
        PyBuffer_Release(&view)
    return checks


def first_bad_block(body, checks, group: int) -> int:
    cdef u64 number = group
    cdef Py_buffer view, given
    cdef Py_ssize_t count, index, bad = -1
    cdef u8[BLOCK_CHECK_BYTES] check
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(checks, &given, PyBUF_SIMPLE)
        try:
            count = (view.len + BLOCK_BYTES - 1) // BLOCK_BYTES
            if given.len != count * BLOCK_CHECK_BYTES:
                raise ValueError(
                    f"{given.len} bytes of checks for a body of {view.len}: "
                    f"{count * BLOCK_CHECK_BYTES} expected")
            with nogil:
                for index in range(count):
                    check_block(
                        <u8 *> view.buf + index * BLOCK_BYTES,
                        min(view.len - index * BLOCK_BYTES, BLOCK_BYTES),
                        number, index, check)
                    if memcmp(check, <u8 *> given.buf + index * BLOCK_CHECK_BYTES,
                              BLOCK_CHECK_BYTES) != 0:
                        bad = index
                        break
        finally:
            PyBuffer_Release(&given)
    finally:
        PyBuffer_Release(&view)
    return bad
