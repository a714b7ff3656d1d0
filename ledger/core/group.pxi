# Group: the records that the open commit group takes.
#
# Needs: state.pxi, record.h. Gives: group_*. Records of one kind that follow each other form a run
# with one header. Each record takes the next position. The buffer has room for what is appended:
# who judges a request asks for that before anything is written.

cdef inline void *group_append(state_t *s, u16 kind, u32 record_bytes) noexcept nogil:
    """A zeroed place for one more record of the group; takes the next position."""
    return memset(group_append_room(s, kind, record_bytes), 0, (record_bytes + 15) & ~<u32>15)

cdef inline void *group_append_room(state_t *s, u16 kind, u32 record_bytes) noexcept nogil:
    """The same for a record that fills its place, of a multiple of 16 bytes."""
    cdef run_t *run
    cdef void *record
    verify(s.group_position_first + s.group_records == s.position + 1)
    verify(s.run_offset == NONE or s.run_offset + sizeof(run_t) <= s.group_bytes)
    verify(s.group_runs <= s.group_records)  # no run is empty
    if s.run_offset == NONE or (<run_t *>(s.group + s.run_offset)).kind != kind:
        s.group_bytes = (s.group_bytes + 15) & ~<u32>15
        s.run_offset = s.group_bytes
        run = <run_t *>(s.group + s.run_offset)
        memset(run, 0, sizeof(run_t))
        run.kind, run.version = kind, JOURNAL_KIND_VERSION
        s.group_bytes += sizeof(run_t)
        s.group_runs += 1
    run = <run_t *>(s.group + s.run_offset)
    record = s.group + s.group_bytes
    invariant(s.group_bytes + record_bytes + 16 <= s.group_bytes_max)
    s.record_offset = s.group_bytes
    s.group_bytes += record_bytes
    run.count += 1
    run.bytes = (run.count * record_bytes + 15) & ~<u32>15
    s.group_records += 1
    s.position += 1
    return record

cdef inline void group_end_run(state_t *s) noexcept nogil:
    """What comes next starts a run of its own."""
    s.group_bytes = (s.group_bytes + 15) & ~<u32>15
    s.run_offset = NONE

cdef inline void group_saw_transfer(state_t *s, u64 timestamp) noexcept nogil:
    if s.group_transfer_min == 0 or timestamp < s.group_transfer_min:
        s.group_transfer_min = timestamp
    if timestamp > s.group_transfer_max:
        s.group_transfer_max = timestamp

cdef void group_begin(state_t *s, u8 *group) noexcept nogil:
    verify(<uintptr_t>group % 16 == 0)
    verify(s.clock >= s.group_clock_before)
    s.group = group
    s.group_bytes = s.group_records = s.group_runs = 0
    s.run_offset = NONE
    s.group_clock_before = s.clock
    s.group_position_first = s.position + 1
    s.group_transfer_min = s.group_transfer_max = 0
