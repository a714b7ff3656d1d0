# cython: language_level=3
"""LMDB's file as a whole: the newest of its two meta pages, the last key, the pages that are free.

For who looks at a file without the library: it takes no lock and maps nothing. Whoever writes the
file meanwhile may reuse the pages of a snapshot from the third commit after it on, so what does not
fit is looked up again in a newer snapshot before it is called damaged; that is left to the caller.
Nothing here knows what a value holds.
"""

from libc cimport errno
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from ledger.facts.record cimport *

import os

import numpy

from ledger.facts.errors import DataRefused

cdef extern from "journal/lmdb_pages.h" nogil:
    enum:
        LMDB_DEPTH_MAX, LMDB_NODE_APART, LMDB_PAGE_BYTES_MAX, LMDB_PAGE_BYTES_MIN
    u64 LMDB_PAGES_MAX
    ctypedef struct lmdb_page_t:
        u16 upper
        u32 pages
    ctypedef struct lmdb_tree_t:
        u32 page_bytes
        u16 flags, depth
        u64 entries, root
    ctypedef struct lmdb_meta_t:
        lmdb_tree_t free, main
        u64 page_last, snapshot
    ctypedef struct lmdb_node_t:
        u16 low, high, flags, key_bytes
    ctypedef struct lmdb_value_t:
        u64 at, bytes, page
    ctypedef struct lmdb_file_t:
        u64 page_bytes, page_last, root, depth
        u64[LMDB_DEPTH_MAX] held
        u8[LMDB_DEPTH_MAX][LMDB_PAGE_BYTES_MAX] pages
    bint lmdb_read(int descriptor, void *to, u64 bytes, u64 at, int flags)
    bint lmdb_read_meta(int descriptor, u64 page_bytes, u64 number, lmdb_meta_t *meta)
    bint lmdb_begin(lmdb_file_t *file, int descriptor, u64 snapshot)
    u64 lmdb_nodes(lmdb_file_t *file, u64 level, u64 number)
    bint lmdb_node(const lmdb_file_t *file, const u8 *page, u64 index, lmdb_node_t *node,
                   u64 *key_at)
    bint lmdb_value(const lmdb_file_t *file, const u8 *page, const lmdb_node_t *node, u64 value_at,
                    lmdb_value_t *value)
    u64 lmdb_pages(const lmdb_file_t *file, const lmdb_value_t *value)
    bint lmdb_begins(const lmdb_file_t *file, const lmdb_value_t *value, const void *before)

METAS_READ_MAX = 100  # until two readings of the meta pages in a row agree


cdef bint read_metas(int descriptor, lmdb_meta_t *metas) except *:
    """Both meta pages; DataRefused says which is none."""
    cdef u64 number, page_bytes = 0
    for number in range(2):
        errno.errno = 0
        if not lmdb_read_meta(descriptor, page_bytes, number, &metas[number]):
            if errno.errno != 0:
                raise OSError(errno.errno, os.strerror(errno.errno))
            raise DataRefused(f"meta page {number} is none of LMDB's")
        page_bytes = metas[number].free.page_bytes
        if (page_bytes < LMDB_PAGE_BYTES_MIN or page_bytes > LMDB_PAGE_BYTES_MAX
                or page_bytes & (page_bytes - 1) != 0 or page_bytes != metas[0].free.page_bytes):
            raise DataRefused(f"meta page {number} says that a page has {page_bytes} bytes")
    return True


def newest(int descriptor):
    cdef lmdb_meta_t[2] metas
    cdef lmdb_meta_t[2] again
    cdef lmdb_meta_t *meta
    cdef u64 number
    cdef int tries = 0
    read_metas(descriptor, metas)
    while True:  # who reads while it is written may get half of the old one and half of the new
        read_metas(descriptor, again)
        if memcmp(metas, again, sizeof(metas)) == 0:
            break
        memcpy(metas, again, sizeof(metas))
        tries += 1
        if tries == METAS_READ_MAX:
            raise DataRefused("the meta pages change whenever they are read")
    number = metas[1].snapshot > metas[0].snapshot
    meta = &metas[number]
    if meta.snapshot & 1 != number and meta.snapshot != 0:
        raise DataRefused(f"meta page {number} says that it is of transaction {meta.snapshot}")
    if meta.page_last >= LMDB_PAGES_MAX or meta.main.flags != 0:
        raise DataRefused(f"meta page {number} says what LMDB does not write")
    if meta.main.entries != 0 and not 1 <= meta.main.depth <= LMDB_DEPTH_MAX:
        raise DataRefused(f"meta page {number} says that the tree has {meta.main.depth} levels")
    return meta.snapshot, meta.free.page_bytes, meta.page_last, meta.main.entries


cdef class Claims:
    """A bit for each page of the file: what has been seen on it."""
    cdef u64 page_last
    cdef u8[::1] used, trees

    def __cinit__(self, u64 page_last):
        self.page_last = page_last
        self.used = numpy.zeros(page_last // 8 + 1, numpy.uint8)
        self.trees = numpy.zeros(page_last // 8 + 1, numpy.uint8)

    cdef bint claim(self, u64 first, u64 count, bint of_tree) except 0:
        """Pages that nothing else may be on; `of_tree`: the trees' own, or of a list."""
        cdef u64 page
        if first < 2 or first > self.page_last or count > self.page_last + 1 - first:
            raise DataRefused(f"pages {first} to {first + count - 1} are not all there")
        for page in range(first, first + count):
            if self.used[page // 8] >> (page % 8) & 1:
                raise DataRefused(f"page {page} is used twice")
            self.used[page // 8] |= 1 << (page % 8)
            if of_tree:
                self.trees[page // 8] |= 1 << (page % 8)
        return True

    cdef bint check_free(self, const u64[::1] pages) except 0:
        """That no tree has one of the pages; whose values lie on them is the caller's to ask."""
        cdef Py_ssize_t i
        for i in range(pages.shape[0]):
            if self.trees[pages[i] // 8] >> (pages[i] % 8) & 1:
                raise DataRefused(f"page {pages[i]} of a tree is in the list of free pages")
        return True


cdef class Walk:
    """A tree of a snapshot, level by level."""
    cdef lmdb_file_t *file
    cdef int descriptor
    cdef u64 entries

    def __cinit__(self, int descriptor, u64 snapshot, bint of_free_pages=False):
        cdef lmdb_meta_t meta
        self.descriptor = descriptor
        self.file = <lmdb_file_t *>malloc(sizeof(lmdb_file_t))
        if self.file == NULL:
            raise MemoryError("the pages of a tree")
        if not lmdb_begin(self.file, descriptor, snapshot):
            raise DataRefused(f"transaction {snapshot} is not what a meta page says")
        if of_free_pages:
            if not lmdb_read_meta(descriptor, self.file.page_bytes, snapshot & 1, &meta):
                raise DataRefused(f"transaction {snapshot} is not what a meta page says")
            self.file.root, self.file.depth = meta.free.root, meta.free.depth
            self.entries = meta.free.entries
            if self.file.depth > LMDB_DEPTH_MAX:
                raise DataRefused(f"the tree of free pages has {self.file.depth} levels")

    def __dealloc__(self):
        free(self.file)

    cdef u64 nodes(self, u64 level, u64 number) except 0:
        cdef u64 count
        errno.errno = 0
        count = lmdb_nodes(self.file, level, number)
        if count == 0 and errno.errno != 0:
            raise OSError(errno.errno, os.strerror(errno.errno))
        if count == 0:
            kind = "leaf" if level + 1 == self.file.depth else "branch"
            raise DataRefused(f"page {number} is not the {kind} page that it should be")
        return count

    cdef u64 node(self, u64 level, u64 index, lmdb_node_t *node) except 0:
        """The index-th node of the page of the level, and where in the page its key lies."""
        cdef u64 key_at
        if not lmdb_node(self.file, self.file.pages[level], index, node, &key_at):
            raise DataRefused(f"page {self.file.held[level]}: node {index} reaches beyond it")
        return key_at

    cdef claim(self, u64 level, u64 number, Claims claims, list lists):
        """Every page below a page, and into `lists`, where there are any, every value in order."""
        cdef lmdb_node_t node
        cdef lmdb_value_t value
        cdef u64 i, key_at
        cdef u64 count = self.nodes(level, number)
        claims.claim(number, 1, True)
        self.check_room(level, count)
        for i in range(count):
            key_at = self.node(level, i, &node)
            if level + 1 < self.file.depth:
                self.claim(level + 1, page_below(&node), claims, lists)
                continue
            if not lmdb_value(self.file, self.file.pages[level], &node, key_at + node.key_bytes,
                              &value):
                raise DataRefused(f"page {number}: value {i} reaches beyond it")
            if lists is not None:
                self.take_list(&value, claims, lists)
            elif value.page != 0:
                claims.claim(value.page, lmdb_pages(self.file, &value), False)

    cdef check_room(self, u64 level, u64 count):
        """That the nodes fill a page from `upper` to its end: LMDB puts the next one before it."""
        cdef u8[LMDB_PAGE_BYTES_MAX] taken
        cdef lmdb_page_t page
        cdef lmdb_node_t node
        cdef u64 i, at, size, sum_ = 0, number = self.file.held[level]
        cdef u64 page_bytes = self.file.page_bytes, lowest = page_bytes
        memcpy(&page, self.file.pages[level], sizeof(page))
        memset(taken, 0, page_bytes)
        for i in range(count):
            at = self.node(level, i, &node) - sizeof(node)
            size = sizeof(node) + node.key_bytes
            if level + 1 == self.file.depth:
                if node.flags & LMDB_NODE_APART:
                    size += sizeof(u64)
                else:
                    size += node.low | <u64>node.high << 16
            size += size & 1
            if at + size > page_bytes or memchr(taken + at, 1, size) != NULL:
                raise DataRefused(f"page {number}: node {i} is not on room of its own")
            memset(taken + at, 1, size)
            sum_ += size
            lowest = min(lowest, at)
        if page.upper != lowest or sum_ != page_bytes - lowest:
            raise DataRefused(f"page {number}: its nodes do not begin where it says")

    cdef take_list(self, lmdb_value_t *value, Claims claims, list lists):
        """A list of free pages; LMDB needs it to descend, and gives back pages as it says them."""
        cdef lmdb_page_t page
        if len(lists) == self.entries:
            raise DataRefused(f"there are more lists of free pages than {self.entries}")
        if value.page != 0:
            self.read(<u8[:sizeof(page)]><u8 *>&page, value.page * self.file.page_bytes)
            if not lmdb_begins(self.file, value, &page):
                raise DataRefused(f"page {value.page} does not begin a list of free pages")
            claims.claim(value.page, page.pages, True)
        words = numpy.empty(value.bytes // sizeof(u64), numpy.uint64)
        self.read(words.view(numpy.uint8), value.at)
        if len(words) == 0 or len(words) < 1 + int(words[0]):
            raise DataRefused("a list of free pages is shorter than it says")
        pages = words[1:1 + int(words[0])]
        if (pages[1:] >= pages[:-1]).any():
            raise DataRefused("a list of free pages does not descend")
        lists.append(pages)

    cdef read(self, u8[::1] to, u64 at):
        errno.errno = 0
        if to.shape[0] > 0 and not lmdb_read(self.descriptor, &to[0], to.shape[0], at, 0):
            if errno.errno != 0:
                raise OSError(errno.errno, os.strerror(errno.errno))
            raise DataRefused("the file ends before a list of free pages does")


cdef u64 page_below(const lmdb_node_t *node) noexcept nogil:
    return node.low | <u64>node.high << 16 | <u64>node.flags << 32


def last_key(int descriptor, u64 snapshot) -> bytes:
    cdef Walk walk = Walk(descriptor, snapshot)
    cdef lmdb_node_t node
    cdef u64 level = 0, key_at, number = walk.file.root
    while True:
        key_at = walk.node(level, walk.nodes(level, number) - 1, &node)
        level += 1
        if level == walk.file.depth:
            return (<const u8 *>walk.file.pages[level - 1])[key_at:key_at + node.key_bytes]
        number = page_below(&node)


def free_pages(int descriptor, u64 snapshot):
    cdef Walk main = Walk(descriptor, snapshot)
    cdef Walk walk = Walk(descriptor, snapshot, True)
    cdef Claims claims = Claims(walk.file.page_last)
    lists = []
    if walk.file.depth > 0:
        walk.claim(0, walk.file.root, claims, lists)
    pages = numpy.sort(numpy.concatenate(lists)) if lists else numpy.empty(0, numpy.uint64)
    if len(pages) and (pages[0] < 2 or pages[len(pages) - 1] > walk.file.page_last):
        raise DataRefused("the list of free pages names pages that are not there")
    if (numpy.diff(pages) == 0).any():
        raise DataRefused("the list of free pages names a page twice")
    main.claim(0, main.file.root, claims, None)
    claims.check_free(pages)
    return pages
