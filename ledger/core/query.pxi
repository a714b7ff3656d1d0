# Query: what is asked of the books. Reads change nothing.
#
# Needs: state.pxi, store.pxi, read_cache.pxi, filters.pxi. Gives: query_*. Each writes whole
# records to `results`, which has room for what the request may ask (EVENTS_MAX at most), and
# returns how many. A filter that makes no sense is not an error: it selects nothing. The memtables
# are read here; what the history on disk says was looked up before, when it is needed: it comes
# first, or last of all when the newest come first.

cdef u32 query_lookup_accounts(const state_t *s, const u8 *ids, u32 count,
                               u8 *results) noexcept nogil:
    cdef u32 i, index, found = 0
    cdef u128 id
    for i in range(count):
        id = u128_load(ids + i * <size_t>sizeof(u128))
        index = store_find_account(s, id, state_tag(s, id))
        if index != NONE:
            memcpy(results + found * <size_t>EVENT_BYTES, state_account(s, index), EVENT_BYTES)
            found += 1
    return found

cdef u32 query_lookup_transfers(const state_t *s, const u8 *ids, u32 count,
                                u8 *results) noexcept nogil:
    cdef u32 i, index, found = 0
    for i in range(count):
        index = store_find_transfer(s, u128_load(ids + i * <size_t>sizeof(u128)))
        if index != NONE:
            memcpy(results + found * <size_t>EVENT_BYTES, state_transfer(s, index), EVENT_BYTES)
            found += 1
    return found

cdef u32 query_account_transfers(const state_t *s, u8 operation, const u8 *filter,
                                 u8 *results) noexcept nogil:
    """Transfers of an account, or its balances right after each of them."""
    cdef bint balances = operation == OPERATION_GET_ACCOUNT_BALANCES
    cdef account_filter_t f
    cdef postings_cursor_t cursor
    cdef const transfer_t *t
    cdef u32 account, index, found = 0, limit
    cdef u64 timestamp_max
    cdef bint reversed
    memcpy(&f, filter, sizeof(account_filter_t))
    if not filters_account_filter_valid(&f):
        return 0
    account = store_find_account(s, f.account_id, state_tag(s, f.account_id))
    if account == NONE or balances and not state_account(s, account).flags & ACCOUNT_HISTORY:
        return 0
    limit = min(f.limit, <u32>EVENTS_MAX)
    timestamp_max = f.timestamp_max if f.timestamp_max != 0 else TIMESTAMP_MAX
    reversed = f.flags & ACCOUNT_FILTER_REVERSED
    if not reversed:
        found = query_sealed(s, operation, filter, sizeof(f), 0, limit, results)
    store_postings(s, account, reversed, &cursor)
    while found < limit:
        index = store_next_posting(s, &cursor)
        if index == NONE:
            break
        t = state_transfer(s, index)
        if t.timestamp < f.timestamp_min or t.timestamp > timestamp_max:
            if reversed == (t.timestamp < f.timestamp_min):
                break
            continue
        if not filters_account_filter_selects(&f, t):
            continue
        if balances:
            query_write_balances(s, index, t.debit_account_id == f.account_id,
                                 results + found * <size_t>EVENT_BYTES)
        else:
            memcpy(results + found * <size_t>EVENT_BYTES, t, EVENT_BYTES)
        found += 1
    if reversed:
        found = query_sealed(s, operation, filter, sizeof(f), found, limit, results)
    return found

cdef u32 query_sealed(const state_t *s, u8 operation, const u8 *filter, u32 filter_bytes, u32 found,
                      u32 limit, u8 *results) noexcept nogil:
    """Append what the sealed past says, where it was asked; how many results there are then."""
    cdef cached_read_t *read = read_cache_find(&s.read_cache, operation, filter, filter_bytes)
    cdef u64 count
    if read == NULL:
        return found
    count = min(<u64>(limit - found), read.bytes // EVENT_BYTES)
    memcpy(results + found * <size_t>EVENT_BYTES, read.results, count * EVENT_BYTES)
    return found + <u32>count

cdef bint query_needs_sealed(const state_t *s, u8 operation, const u8 *filter, u8 *scratch,
                             u32 *account) noexcept nogil:
    """Whether the sealed past must be asked and was not. `account`: the one the filter names."""
    cdef account_filter_t f
    cdef query_filter_t q
    account[0] = NONE
    if s.sealed_timestamp_max == 0:
        return False
    if operation == OPERATION_QUERY_TRANSFERS:
        memcpy(&q, filter, sizeof(query_filter_t))
        return (filters_query_filter_valid(&q) and q.timestamp_min <= s.sealed_timestamp_max
                and read_cache_find(&s.read_cache, operation, filter, sizeof(q)) == NULL
                and not (q.flags & QUERY_FILTER_REVERSED
                         and query_records(s, filter, True, scratch)
                         == min(q.limit, <u32>EVENTS_MAX)))
    if (operation != OPERATION_GET_ACCOUNT_TRANSFERS
            and operation != OPERATION_GET_ACCOUNT_BALANCES):
        return False
    memcpy(&f, filter, sizeof(account_filter_t))
    if not filters_account_filter_valid(&f) or f.timestamp_min > s.sealed_timestamp_max:
        return False
    account[0] = store_find_account(s, f.account_id, state_tag(s, f.account_id))
    return (account[0] != NONE
            and state_account(s, account[0]).timestamp < s.sealed_timestamp_max
            and (operation == OPERATION_GET_ACCOUNT_TRANSFERS
                 or state_account(s, account[0]).flags & ACCOUNT_HISTORY)
            and read_cache_find(&s.read_cache, operation, filter, sizeof(f)) == NULL
            and not (f.flags & ACCOUNT_FILTER_REVERSED
                     and query_account_transfers(s, operation, filter, scratch)
                     == min(f.limit, <u32>EVENTS_MAX)))

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
    cdef u64 first, end, i, at
    cdef u32 found = 0, limit
    cdef const u8 *record
    memcpy(&f, filter, sizeof(query_filter_t))
    if not filters_query_filter_valid(&f):
        return 0
    limit = min(f.limit, <u32>EVENTS_MAX)
    first = (store_scan_transfers(s, f.timestamp_min) if transfers
             else store_scan_accounts(s, f.timestamp_min))
    if f.timestamp_max == 0:
        end = s.transfers.count if transfers else s.accounts.count
    else:
        end = (store_scan_transfers(s, f.timestamp_max + 1) if transfers
               else store_scan_accounts(s, f.timestamp_max + 1))
    if transfers and not f.flags & QUERY_FILTER_REVERSED:
        found = query_sealed(s, OPERATION_QUERY_TRANSFERS, filter, sizeof(f), 0, limit, results)
    for i in range(first, end):
        if found == limit:
            break
        at = first + end - 1 - i if f.flags & QUERY_FILTER_REVERSED else i
        record = <const u8 *>slab_at(&s.transfers if transfers else &s.accounts, at)
        if (filters_select_transfer(&f, <const transfer_t *>record) if transfers
                else filters_select_account(&f, <const account_t *>record)):
            memcpy(results + found * <size_t>EVENT_BYTES, record, EVENT_BYTES)
            found += 1
    if transfers and f.flags & QUERY_FILTER_REVERSED:
        found = query_sealed(s, OPERATION_QUERY_TRANSFERS, filter, sizeof(f), found, limit,
                             results)
    return found

cdef u32 query_execute(const state_t *s, u8 operation, const u8 *events, u32 count,
                       u8 *results) noexcept nogil:
    if operation == OPERATION_LOOKUP_ACCOUNTS:
        return query_lookup_accounts(s, events, count, results)
    if operation == OPERATION_LOOKUP_TRANSFERS:
        return query_lookup_transfers(s, events, count, results)
    if operation == OPERATION_GET_ACCOUNT_TRANSFERS:
        return query_account_transfers(s, operation, events, results)
    if operation == OPERATION_GET_ACCOUNT_BALANCES:
        return query_account_transfers(s, operation, events, results)
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
