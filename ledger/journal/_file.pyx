# cython: language_level=3
"""Records at addresses in the journal, each block checked before anything is read from it.

A record is taken from its group's body, which lies in memory, or from the journal's file without a
mapping, there of many groups in one call. How an address is read is said in record_reader.h.
Nothing here knows what led to an address, what a record means or where a scan begins: whoever scans
a body gets it as a Body. Records in a body may lie at any address, so they are copied.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc cimport errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ledger.facts.record cimport *
from ledger.journal.lmdb_pages cimport *
from ledger.journal.record_reader cimport *

import os

GROUP_SHIFT = PLACE_GROUP_SHIFT
KIND_MASK = PLACE_KIND_MASK
TRANSFER = PLACE_TRANSFER
BURNED_ID = PLACE_BURNED_ID
INTACT = NO_BLOCK
NO_RECORD = NOT_A_RECORD


# ---- a body -------------------------------------------------------------------------------------

cdef class Body:

    @property
    def group(self):
        return self.b.group

    def take(self, const u64[::1] addresses, u8[:, ::1] out):
        if out.shape[0] != addresses.shape[0] or out.shape[1] != sizeof(transfer_t):
            raise ValueError(
                f"{out.shape[0]} x {out.shape[1]} bytes for {addresses.shape[0]} records")
        if addresses.shape[0] > 0:
            with nogil:
                body_take(&self.b, &addresses[0], addresses.shape[0], &out[0, 0])
        return self.b.bad


cdef class BodyInMemory(Body):
    cdef Py_buffer body, checks

    def __cinit__(self, body not None, checks not None, u64 group):
        PyObject_GetBuffer(body, &self.body, PyBUF_SIMPLE)
        PyObject_GetBuffer(checks, &self.checks, PyBUF_SIMPLE)
        if self.body.len >= BODY_BYTES_END:
            raise ValueError(f"a body of {self.body.len} bytes: no address reaches its end")
        if self.checks.len != <Py_ssize_t>block_count(self.body.len) * BLOCK_CHECK_BYTES:
            raise ValueError(f"{self.checks.len} bytes of checks for a body of {self.body.len}")
        body_init(&self.b, <const u8 *>self.body.buf, self.body.len, <const u8 *>self.checks.buf,
                  group)

    def __dealloc__(self):
        PyBuffer_Release(&self.body)
        PyBuffer_Release(&self.checks)


cdef class BodyInFile(Body):
    cdef apart_t apart
    cdef reader_t *reader
    cdef bint found

    def __cinit__(self, int descriptor, u64 snapshot, const u8[::1] cluster, u64 group):
        if cluster.shape[0] != sizeof(u128):
            raise ValueError(f"a cluster of {cluster.shape[0]} bytes")
        self.reader = <reader_t *>malloc(sizeof(reader_t))
        if self.reader == NULL:
            raise MemoryError("what is read of a group")
        memcpy(&self.reader.cluster, &cluster[0], sizeof(u128))
        with nogil:
            self.found = (lmdb_begin(&self.reader.file, descriptor, snapshot)
                          and apart_begin(&self.apart, self.reader, group, &self.b))

    def __dealloc__(self):
        free(self.reader)


# ---- the journal's file -------------------------------------------------------------------------

def open_body(int descriptor, u64 snapshot, const u8[::1] cluster, u64 group):
    cdef BodyInFile body = BodyInFile(descriptor, snapshot, cluster, group)
    return body if body.found else None


def take_from(int descriptor, u64 snapshot, const u8[::1] cluster, const u64[::1] addresses,
              u8[:, ::1] out, u64 groups_max):
    cdef u64 i, groups, count = addresses.shape[0]
    cdef reader_t *r
    cdef held_t *helds
    if out.shape[0] != addresses.shape[0] or out.shape[1] != sizeof(transfer_t):
        raise ValueError(f"{out.shape[0]} x {out.shape[1]} bytes for {count} records")
    if count == 0 or groups_max == 0 or cluster.shape[0] != sizeof(u128):
        raise ValueError(f"{count} addresses, {groups_max} groups, {cluster.shape[0]} bytes")
    groups_max = min(groups_max, count)
    r = <reader_t *>malloc(sizeof(reader_t))
    helds = <held_t *>malloc(groups_max * sizeof(held_t))
    try:
        if r == NULL or helds == NULL:
            raise MemoryError("what is read of groups")
        memcpy(&r.cluster, &cluster[0], sizeof(u128))
        with nogil:
            groups = held_split(helds, groups_max, &addresses[0], count)
            if lmdb_begin(&r.file, descriptor, snapshot):
                reader_take(r, helds, groups, &addresses[0], &out[0, 0])
        return helds[groups - 1].end, [helds[i].group for i in range(groups) if not helds[i].taken]
    finally:
        free(r)
        free(helds)


def read_ahead(int descriptor, u64 snapshot, u64 address, u64 group_last, u64 count):
    cdef reader_t *r = <reader_t *>malloc(sizeof(reader_t))
    if r == NULL:
        raise MemoryError("what is read of groups")
    with nogil:
        if lmdb_begin(&r.file, descriptor, snapshot):
            reader_ahead(r, address, group_last, count * sizeof(transfer_t))
    free(r)


cdef class Pages:
    cdef lmdb_file_t *file
    cdef int descriptor
    cdef bint begun

    def __cinit__(self, int descriptor, u64 snapshot):
        cdef int error
        self.descriptor = descriptor
        self.file = <lmdb_file_t *>malloc(sizeof(lmdb_file_t))
        if self.file == NULL:
            raise MemoryError("the pages of a file")
        with nogil:
            errno.errno = 0
            self.begun = lmdb_begin(self.file, descriptor, snapshot)
            error = errno.errno
        if not self.begun and error != 0:
            raise OSError(error, os.strerror(error))

    def __dealloc__(self):
        free(self.file)

    def find(self, const u8[::1] key):
        cdef lmdb_value_t value
        cdef u8[VALUE_AT] before
        cdef bint found
        cdef int error
        with nogil:
            errno.errno = 0
            found = (self.begun and lmdb_find(self.file, &key[0], key.shape[0], &value)
                     and lmdb_read(self.descriptor, before, VALUE_AT, value.at - VALUE_AT, 0)
                     and lmdb_begins(self.file, &value, before))
            error = errno.errno
        if not found and error != 0:
            raise OSError(error, os.strerror(error))
        return (value.at, value.bytes) if found else None
