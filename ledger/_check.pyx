"""Leaf: the AEGIS-128L check for Python: of one stretch, and of the blocks of a journal group.

What the check of a block covers is said in blocks.h. This file knows neither what a body holds nor
where it is kept.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from ledger.record cimport u8, u64, u128

cdef extern from "aegis.h" nogil:
    ctypedef struct aegis_path_t:
        pass
    const aegis_path_t aegis_portable_path "aegis_portable"
    const aegis_path_t *aegis_best()
    u128 aegis_of(const aegis_path_t *path, const void *input, size_t bytes)
    enum:
        AEGIS_TAG_BYTES

cdef extern from "blocks.h" nogil:
    enum:
        BLOCK_CHECK_BYTES
    u64 block_count(u64 body_bytes)
    void block_check(const u8 *body, u64 body_bytes, u64 group, u64 index, u8 *check)
    bint block_intact(
        const u8 *body, u64 body_bytes, const u8 *checks, u64 group, u64 index)


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


def blocks(body, group: int) -> bytes:
    cdef u64 number = group
    cdef Py_buffer view
    cdef Py_ssize_t count, index
    cdef bytes checks
    cdef u8 *out
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        count = block_count(view.len)
        checks = PyBytes_FromStringAndSize(NULL, count * BLOCK_CHECK_BYTES)
        out = <u8 *> PyBytes_AS_STRING(checks)
        with nogil:
            for index in range(count):
                block_check(
                    <const u8 *> view.buf, view.len, number, index,
                    out + index * BLOCK_CHECK_BYTES)
    finally:
        PyBuffer_Release(&view)
    return checks


def first_bad_block(body, checks, group: int) -> int:
    cdef u64 number = group
    cdef Py_buffer view, given
    cdef Py_ssize_t count, index, bad = -1
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(checks, &given, PyBUF_SIMPLE)
        try:
            count = block_count(view.len)
            if given.len != count * BLOCK_CHECK_BYTES:
                raise ValueError(
                    f"{given.len} bytes of checks for a body of {view.len}: "
                    f"{count * BLOCK_CHECK_BYTES} expected")
            with nogil:
                for index in range(count):
                    if not block_intact(
                            <const u8 *> view.buf, view.len, <const u8 *> given.buf, number,
                            index):
                        bad = index
                        break
        finally:
            PyBuffer_Release(&given)
    finally:
        PyBuffer_Release(&view)
    return bad
