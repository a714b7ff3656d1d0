"""The AEGIS-128L check for Python: of one stretch, and of the blocks of a journal group; and
a word before the signal of mapped memory that is not there kills.

What the check of a block covers is said in block_checks.h. This file knows neither what a body
holds nor where it is kept.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from libc.signal cimport SIG_DFL, raise_, signal
from libc.string cimport memcpy
from posix.unistd cimport write as write_to

from ledger.facts.record cimport u8, u64, u128

cdef extern from "<signal.h>" nogil:
    int SIGBUS

cdef extern from "base/aegis.h" nogil:
    ctypedef struct aegis_path_t:
        pass
    const aegis_path_t aegis_portable_path "aegis_portable"
    const aegis_path_t *aegis_best()
    u128 aegis_of(const aegis_path_t *path, const void *input, size_t bytes)
    enum:
        AEGIS_TAG_BYTES

cdef extern from "journal/block_checks.h" nogil:
    enum:
        BLOCK_CHECK_BYTES
    u64 block_count(u64 body_bytes)
    void block_check(const u8 *body, u64 body_bytes, u64 group, u64 index, u8 *check)
    bint block_intact(
        const u8 *body, u64 body_bytes, const u8 *checks, u64 group, u64 index)


cdef extern from "facts/record.h" nogil:
    const char *GROUP_MAGIC_TEXT "GROUP_MAGIC"
    enum:
        GROUP_FORMAT_NUMBER "GROUP_FORMAT"

GROUP_MAGIC = GROUP_MAGIC_TEXT
GROUP_FORMAT = GROUP_FORMAT_NUMBER

cdef enum:
    HELD_BYTES_MAX = 65536  # done in less time than getting the interpreter back takes


cdef bytes tag_of(object buffer, const aegis_path_t *path):
    cdef Py_buffer view
    cdef u128 tag
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if view.len <= HELD_BYTES_MAX:
            tag = aegis_of(path, view.buf, view.len)
        else:
            with nogil:
                tag = aegis_of(path, view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return PyBytes_FromStringAndSize(<char *> &tag, AEGIS_TAG_BYTES)


def aegis(buffer, /) -> bytes:
    return tag_of(buffer, aegis_best())


def aegis_portable(buffer, /) -> bytes:
    return tag_of(buffer, &aegis_portable_path)


cdef void write_checks(const u8 *body, u64 body_bytes, u64 group, u8 *out) noexcept nogil:
    cdef u64 index
    for index in range(block_count(body_bytes)):
        block_check(body, body_bytes, group, index, out + index * BLOCK_CHECK_BYTES)


def blocks(body, group: int) -> bytes:
    cdef u64 number = group
    cdef Py_buffer view
    cdef bytes checks
    cdef u8 *out
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        checks = PyBytes_FromStringAndSize(NULL, block_count(view.len) * BLOCK_CHECK_BYTES)
        out = <u8 *> PyBytes_AS_STRING(checks)
        with nogil:
            write_checks(<const u8 *> view.buf, view.len, number, out)
    finally:
        PyBuffer_Release(&view)
    return checks


cdef void write_body(const u8 *body, u64 body_bytes, u64 group, u8 *to) noexcept nogil:
    memcpy(to, body, body_bytes)
    write_checks(to, body_bytes, group, to + body_bytes)


def write(body, group: int, to) -> int:
    cdef u64 number = group
    cdef Py_buffer view, room
    cdef Py_ssize_t size
    PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(to, &room, PyBUF_WRITABLE)
        try:
            size = view.len + block_count(view.len) * BLOCK_CHECK_BYTES
            if size > room.len:
                raise ValueError(f"a body and its checks take {size} bytes of {room.len}")
            if view.len <= HELD_BYTES_MAX:
                write_body(<const u8 *> view.buf, view.len, number, <u8 *> room.buf)
            else:
                with nogil:
                    write_body(<const u8 *> view.buf, view.len, number, <u8 *> room.buf)
        finally:
            PyBuffer_Release(&room)
    finally:
        PyBuffer_Release(&view)
    return size


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


cdef enum:
    TOLD_BYTES_MAX = 4096

cdef char told_line[TOLD_BYTES_MAX]
cdef size_t told_bytes = 0


cdef void tell(int number) noexcept nogil:
    write_to(2, told_line, told_bytes)
    signal(number, SIG_DFL)
    raise_(number)


def on_sigbus(line: bytes) -> None:
    """Have `line` written to standard error before SIGBUS ends the process, for good."""
    global told_bytes
    told_bytes = min(len(line), TOLD_BYTES_MAX)
    memcpy(told_line, PyBytes_AS_STRING(line), told_bytes)
    signal(SIGBUS, tell)
