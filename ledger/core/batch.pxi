# Batch: the events of one batch judged in order; linked ones succeed or fail together.
#
# Needs: state.pxi, group.pxi, store.pxi, prefetch.pxi, undo.pxi, accounts.pxi, transfers.pxi,
# status.h. Gives: batch_*. A failed chain is taken back at once; the ids that failed for a reason
# that may pass are burned after that, so that a chain cannot take the burning back.

cdef void batch_burn(state_t *s, const u8 *event, u32 status, u32 tag,
                     u64 timestamp) noexcept nogil:
    cdef burned_id_t *record = <burned_id_t *>group_append(s, KIND_BURNED_ID, sizeof(burned_id_t))
    record.id, record.timestamp, record.status = u128_load(event), timestamp, status
    store_burn(s, record.id, tag)

cdef void batch_create(state_t *s, const u8 *events, u32 count, bint transfers, u64 batch_end,
                       create_result_t *results) noexcept nogil:
    """Judge a batch in order; linked events succeed or fail together."""
    cdef tags_t ring[PREFETCH_RING]
    cdef u32 i, j, status, chain_first = 0, ahead = 0
    cdef bint in_chain = False, broken = False, linked, imported = False
    cdef const u8 *event
    cdef const tags_t *tags = NULL
    cdef u64 timestamp
    if count > 0:
        imported = (state_event_flags(events)
                    & (TRANSFER_IMPORTED if transfers else ACCOUNT_IMPORTED))
    for i in range(count):
        event = events + i * <size_t>EVENT_BYTES
        if transfers:
            tags = prefetch_ahead(s, events, i, count, ring, &ahead)
        linked = state_event_flags(event) & TRANSFER_LINKED
        timestamp = batch_end - count + 1 + i
        if linked and not in_chain:
            in_chain, broken, chain_first = True, False, i
            undo_open(s)
        if linked and i == count - 1:
            status = TRANSFER_LINKED_EVENT_CHAIN_OPEN_STATUS
        elif broken:
            status = TRANSFER_LINKED_EVENT_FAILED_STATUS
        elif transfers:
            status = transfers_judge(s, event, batch_end, imported, tags, &timestamp)
        else:
            status = accounts_judge(s, event, batch_end, imported, &timestamp)
        results[i].timestamp, results[i].status, results[i].reserved = timestamp, status, 0
        if status != STATUS_CREATED and in_chain and not broken:
            undo_rollback(s)
            broken = True
            for j in range(chain_first, i):
                results[j].status = TRANSFER_LINKED_EVENT_FAILED_STATUS
        verify(timestamp <= batch_end)
        verify(status != STATUS_CREATED or not broken)
        if transfers and transfer_status_transient(status):
            batch_burn(s, event, status, tags.id, timestamp)
        if in_chain and (not linked or i == count - 1):
            undo_close(s)
            in_chain = broken = False
