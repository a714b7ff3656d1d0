# The C of merge.h as Cython sees it: how many streams there may be.

cdef extern from "base/merge.h" nogil:
    enum:
        MERGE_STREAMS_MAX
