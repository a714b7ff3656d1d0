# A group's body for another compiled room: who scans the body gets it as this object, and does not
# know where it is kept.

from ledger.journal.record_reader cimport body_t

cdef class Body:
    cdef body_t b
