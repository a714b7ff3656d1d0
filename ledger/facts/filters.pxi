# Filters: whether the filter of a read makes sense, and which records it selects.
#
# Needs: record.h. Gives: filters_*. Pure functions of a filter and a record: they know neither
# state nor journal, and both reads of memory and reads of the history on disk use them.

cdef bint filters_zeros(const u8 *bytes, u32 count) noexcept nogil:
    cdef u32 i
    for i in range(count):
        if bytes[i]:
            return False
    return True

cdef bint filters_range_valid(u64 timestamp_min, u64 timestamp_max, u32 limit) noexcept nogil:
    return (timestamp_min <= TIMESTAMP_MAX and timestamp_max <= TIMESTAMP_MAX
            and (timestamp_max == 0 or timestamp_min <= timestamp_max) and limit != 0)

cdef bint filters_account_filter_valid(const account_filter_t *f) noexcept nogil:
    return (f.account_id != 0 and f.account_id != U128_MAX
            and filters_range_valid(f.timestamp_min, f.timestamp_max, f.limit)
            and (f.flags & (ACCOUNT_FILTER_DEBITS | ACCOUNT_FILTER_CREDITS)) != 0
            and (f.flags & ~<u32>ACCOUNT_FILTER_FLAGS_KNOWN) == 0
            and filters_zeros(f.reserved, sizeof(f.reserved)))

cdef inline bint filters_account_filter_selects(const account_filter_t *f,
                                                const transfer_t *t) noexcept nogil:
    return ((t.debit_account_id == f.account_id and f.flags & ACCOUNT_FILTER_DEBITS
             or t.credit_account_id == f.account_id and f.flags & ACCOUNT_FILTER_CREDITS)
            and (f.user_data_128 == 0 or f.user_data_128 == t.user_data_128)
            and (f.user_data_64 == 0 or f.user_data_64 == t.user_data_64)
            and (f.user_data_32 == 0 or f.user_data_32 == t.user_data_32)
            and (f.code == 0 or f.code == t.code))

cdef bint filters_query_filter_valid(const query_filter_t *f) noexcept nogil:
    return (filters_range_valid(f.timestamp_min, f.timestamp_max, f.limit)
            and (f.flags & ~<u32>QUERY_FILTER_FLAGS_KNOWN) == 0
            and filters_zeros(f.reserved, sizeof(f.reserved)))

cdef inline bint filters_query_filter_selects(const query_filter_t *f, u128 user_data_128,
                                              u64 user_data_64, u32 user_data_32, u32 ledger,
                                              u16 code) noexcept nogil:
    return ((f.user_data_128 == 0 or f.user_data_128 == user_data_128)
            and (f.user_data_64 == 0 or f.user_data_64 == user_data_64)
            and (f.user_data_32 == 0 or f.user_data_32 == user_data_32)
            and (f.ledger == 0 or f.ledger == ledger)
            and (f.code == 0 or f.code == code))

cdef inline bint filters_select_transfer(const query_filter_t *f,
                                         const transfer_t *t) noexcept nogil:
    return filters_query_filter_selects(f, t.user_data_128, t.user_data_64, t.user_data_32,
                                        t.ledger, t.code)

cdef inline bint filters_select_account(const query_filter_t *f, const account_t *a) noexcept nogil:
    return filters_query_filter_selects(f, a.user_data_128, a.user_data_64, a.user_data_32,
                                        a.ledger, a.code)
