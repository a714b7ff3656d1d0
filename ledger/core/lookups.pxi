# Lookups: what the request at hand needs from the history on disk and memory does not know.
#
# Needs: record.h. Gives: lookups_*. A list of ids, timestamps and reads that grows to a full
# request's worth and is then used again. A plain container: it knows no state and no journal.

cdef enum:
    LOOKUPS_IDS_MAX = 3 * 65536
    LOOKUPS_READS_MAX = EVENTS_MAX
    FILTER_BYTES_MAX = 128

cdef struct lookups_read_t:
    u8 filter[FILTER_BYTES_MAX]
    u32 operation, account  # index of the account that the filter names; NONE for none

cdef struct lookups_t:
    u128 *ids
    u64 *timestamps
    lookups_read_t *reads
    u32 id_count, timestamp_count, read_count


cdef int lookups_reserve(lookups_t *w) noexcept nogil:
    """0, or -1 when there is no memory for a full request's worth."""
    if w.reads != NULL:
        return 0
    if w.ids == NULL:
        w.ids = <u128 *>aligned_alloc(16, LOOKUPS_IDS_MAX * sizeof(u128))
    if w.timestamps == NULL:
        w.timestamps = <u64 *>malloc(EVENTS_MAX * sizeof(u64))
    if w.ids == NULL or w.timestamps == NULL:
        return -1
    w.reads = <lookups_read_t *>malloc(LOOKUPS_READS_MAX * sizeof(lookups_read_t))
    return 0 if w.reads != NULL else -1

cdef void lookups_free(lookups_t *w) noexcept nogil:
    free(w.ids)
    free(w.timestamps)
    free(w.reads)

cdef inline void lookups_clear(lookups_t *w) noexcept nogil:
    w.id_count = w.timestamp_count = w.read_count = 0

cdef inline bint lookups_any(const lookups_t *w) noexcept nogil:
    return w.id_count or w.timestamp_count or w.read_count

cdef inline void lookups_want_id(lookups_t *w, u128 id) noexcept nogil:
    if w.id_count < LOOKUPS_IDS_MAX:
        w.ids[w.id_count] = id
        w.id_count += 1

cdef inline void lookups_want_timestamp(lookups_t *w, u64 timestamp) noexcept nogil:
    if w.timestamp_count < EVENTS_MAX:
        w.timestamps[w.timestamp_count] = timestamp
        w.timestamp_count += 1

cdef void lookups_want_read(lookups_t *w, u32 operation, const u8 *filter, u32 filter_bytes,
                            u32 account) noexcept nogil:
    cdef lookups_read_t *read
    if w.read_count < LOOKUPS_READS_MAX:
        read = &w.reads[w.read_count]
        memset(read, 0, sizeof(lookups_read_t))
        memcpy(read.filter, filter, filter_bytes)
        read.operation, read.account = operation, account
        w.read_count += 1
