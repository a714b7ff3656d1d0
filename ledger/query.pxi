# Query: what is asked of the books. Reads change nothing.
#
# Needs: state.pxi, history.pxi, select.pxi. Gives: query_*. Each writes whole records to `results`, which has
# room for what the request may ask (EVENTS_MAX at most), and returns how many. A filter that makes
# no sense is not an error: it selects nothing.

cdef u32 query_lookup_accounts(const state_t *s, const u8 *ids, u32 count,
                               u8 *results) noexcept nogil:
    cdef u32 i, index, found = 0
    cdef u128 id
    for i in range(count):
        id = u128_load(ids + i * <size_t>sizeof(u128))
        index = history_find_account(s, id, history_tag(s, id))
        if index != NONE:
            memcpy(results + found * <size_t>EVENT_BYTES, state_account(s, index), EVENT_BYTES)
            found += 1
    return found

cdef u32 query_lookup_transfers(const state_t *s, const u8 *ids, u32 count,
                                u8 *results) noexcept nogil:
    cdef u32 i, index, found = 0
    for i in range(count):
        index = history_find_transfer(s, u128_load(ids + i * <size_t>sizeof(u128)))
        if index != NONE:
            memcpy(results + found * <size_t>EVENT_BYTES, state_transfer(s, index), EVENT_BYTES)
            found += 1
    return found

cdef u32 query_account_transfers(const state_t *s, const u8 *filter, bint balances,
                                 u8 *results) noexcept nogil:
    """Transfers of an account, or its balances right after each of them."""
    cdef account_filter_t f
    cdef postings_cursor_t cursor
    cdef const transfer_t *t
    cdef u32 account, index, found = 0, limit
    cdef u64 timestamp_max
    cdef bint reversed
    memcpy(&f, filter, sizeof(account_filter_t))
    if not query_account_filter_valid(&f):
        return 0
    account = history_find_account(s, f.account_id, history_tag(s, f.account_id))
    if account == NONE or balances and not state_account(s, account).flags & ACCOUNT_HISTORY:
        return 0
    limit = min(f.limit, <u32>EVENTS_MAX)
    timestamp_max = f.timestamp_max if f.timestamp_max != 0 else TIMESTAMP_MAX
    reversed = f.flags & ACCOUNT_FILTER_REVERSED
    history_postings(s, account, reversed, &cursor)
    while found < limit:
        index = history_next_posting(s, &cursor)
        if index == NONE:
            break
        t = state_transfer(s, index)
        if t.timestamp < f.timestamp_min or t.timestamp > timestamp_max:
            if reversed == (t.timestamp < f.timestamp_min):
                break
            continue
        if not query_account_filter_selects(&f, t):
            continue
        if balances:
            query_write_balances(s, index, t.debit_account_id == f.account_id,
                                 results + found * <size_t>EVENT_BYTES)
        else:
            memcpy(results + found * <size_t>EVENT_BYTES, t, EVENT_BYTES)
        found += 1
    return found

cdef void query_write_balances(const state_t *s, u32 transfer, bint debit,
                               u8 *result) noexcept nogil:
    cdef transfer_balances_t *both = <transfer_balances_t *>slab_at(&s.transfer_balances, transfer)
    cdef account_balance_t balance
    memset(&balance, 0, sizeof(account_balance_t))
    memcpy(&balance, &both.debit if debit else &both.credit, sizeof(balances_t))
    balance.timestamp = state_transfer(s, transfer).timestamp
    memcpy(result, &balance, sizeof(account_balance_t))

cdef u32 query_records(const state_t *s, const u8 *filter, bint transfers,
                       u8 *results) noexcept nogil:
    """Accounts or transfers by their fields: a scan of the time range, in its direction."""
    cdef query_filter_t f
    cdef const transfer_t *t
    cdef const account_t *a
    cdef u64 first, end, i
    cdef u32 found = 0, limit
    cdef bint selected
    memcpy(&f, filter, sizeof(query_filter_t))
    if not query_filter_valid(&f):
        return 0
    limit = min(f.limit, <u32>EVENTS_MAX)
    first = (history_scan_transfers(s, f.timestamp_min) if transfers
             else history_scan_accounts(s, f.timestamp_min))
    if f.timestamp_max == 0:
        end = s.transfers.count if transfers else s.accounts.count
    else:
        end = (history_scan_transfers(s, f.timestamp_max + 1) if transfers
               else history_scan_accounts(s, f.timestamp_max + 1))
    for i in range(first, end):
        if found == limit:
            break
        index = <u32>(first + end - 1 - i if f.flags & QUERY_FILTER_REVERSED else i)
        if transfers:
            t = state_transfer(s, index)
            selected = query_filter_selects(&f, t.user_data_128, t.user_data_64, t.user_data_32,
                                            t.ledger, t.code)
            if selected:
                memcpy(results + found * <size_t>EVENT_BYTES, t, EVENT_BYTES)
        else:
            a = state_account(s, index)
            selected = query_filter_selects(&f, a.user_data_128, a.user_data_64, a.user_data_32,
                                            a.ledger, a.code)
            if selected:
                memcpy(results + found * <size_t>EVENT_BYTES, a, EVENT_BYTES)
        found += selected
    return found

cdef u32 query_execute(const state_t *s, u8 operation, const u8 *events, u32 count,
                       u8 *results) noexcept nogil:
    if operation == OPERATION_LOOKUP_ACCOUNTS:
        return query_lookup_accounts(s, events, count, results)
    if operation == OPERATION_LOOKUP_TRANSFERS:
        return query_lookup_transfers(s, events, count, results)
    if operation == OPERATION_GET_ACCOUNT_TRANSFERS:
        return query_account_transfers(s, events, False, results)
    if operation == OPERATION_GET_ACCOUNT_BALANCES:
        return query_account_transfers(s, events, True, results)
    return query_records(s, events, operation == OPERATION_QUERY_TRANSFERS, results)

cdef u64 query_results_max(u8 operation, const u8 *events, u32 count) noexcept nogil:
    """Results a batch of a read may have: as many as its ids, or the limit of its filter."""
    cdef account_filter_t account_filter
    cdef query_filter_t query_filter
    if operation == OPERATION_LOOKUP_ACCOUNTS or operation == OPERATION_LOOKUP_TRANSFERS:
        return count
    if (operation == OPERATION_GET_ACCOUNT_TRANSFERS
            or operation == OPERATION_GET_ACCOUNT_BALANCES):
        memcpy(&account_filter, events, sizeof(account_filter_t))
        return min(account_filter.limit, <u32>EVENTS_MAX)
    memcpy(&query_filter, events, sizeof(query_filter_t))
    return min(query_filter.limit, <u32>EVENTS_MAX)

cdef u32 query_event_bytes(u8 operation) noexcept nogil:
    if operation == OPERATION_LOOKUP_ACCOUNTS or operation == OPERATION_LOOKUP_TRANSFERS:
        return sizeof(u128)
    if operation == OPERATION_QUERY_ACCOUNTS or operation == OPERATION_QUERY_TRANSFERS:
        return sizeof(query_filter_t)
    return EVENT_BYTES
