# The C records of record.h as Cython sees them: only the names that .pyx and .pxi code uses.
# Order and offsets here do not matter, the C compiler uses the header.

from ledger.base.types cimport U128_MAX, VERIFIES, invariant, u8, u16, u32, u64, u128, verify

cdef extern from "facts/record.h" nogil:
    ctypedef struct account_t:
        u128 id, debits_pending, debits_posted, credits_pending, credits_posted, user_data_128
        u64 user_data_64
        u32 user_data_32, reserved, ledger
        u16 code, flags
        u64 timestamp

    ctypedef struct transfer_t:
        u128 id, debit_account_id, credit_account_id, amount, pending_id, user_data_128
        u64 user_data_64
        u32 user_data_32, timeout, ledger
        u16 code, flags
        u64 timestamp

    ctypedef struct create_result_t:
        u64 timestamp
        u32 status, reserved

    ctypedef struct account_filter_t:
        u128 account_id, user_data_128
        u64 user_data_64
        u32 user_data_32
        u16 code
        u8 reserved[58]
        u64 timestamp_min, timestamp_max
        u32 limit, flags

    ctypedef struct query_filter_t:
        u128 user_data_128
        u64 user_data_64
        u32 user_data_32, ledger
        u16 code
        u8 reserved[6]
        u64 timestamp_min, timestamp_max
        u32 limit, flags

    ctypedef struct account_balance_t:
        u128 debits_pending, debits_posted, credits_pending, credits_posted
        u64 timestamp
        u8 reserved[56]

    ctypedef struct run_t:
        u16 kind, version
        u32 count, bytes, reserved

    ctypedef struct start_t:
        u64 timestamp, wall, id
        u32 release

    ctypedef struct session_record_t:
        u128 client, checksum
        u64 session, timestamp
        u32 release

    ctypedef struct session_evicted_t:
        u128 client
        u64 session, timestamp

    ctypedef struct request_t:
        u128 client, checksum
        u64 session, timestamp, identity
        u32 number, release, event_count, outcome_count
        u16 batch_count
        u8 operation

    ctypedef struct batch_t:
        u16 event_count

    ctypedef struct outcome_t:
        u32 event, status
        u64 timestamp

    ctypedef struct resolution_t:
        u64 position, timestamp
        u128 amount
        u16 flags, outcome

    ctypedef struct burned_id_t:
        u128 id
        u64 timestamp
        u32 status, reserved

    ctypedef struct arrival_t:
        u128 client, checksum, parent
        u64 session
        u32 number, release, events_offset, event_count, batches_offset
        u16 batch_count
        u8 operation, verdict, reason
        u64 ping_timestamp, route

    ctypedef struct answer_t:
        u128 client, checksum
        u64 position, timestamp, group, start_id
        u32 record_offset, arrival, number, release
        u32 payload_offset, payload_bytes, counts_offset
        u16 batch_count
        u8 operation, verdict, reason, lost
        u64 ping_timestamp

    ctypedef struct reply_t:
        u128 client, checksum, context
        u64 position, timestamp, ping_timestamp
        u32 number, release, payload_offset, payload_bytes, batches_offset, body_bytes_max
        u16 batch_count
        u8 operation, verdict, reason

    enum:
        ACCOUNT_LINKED, ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS
        ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS, ACCOUNT_HISTORY, ACCOUNT_IMPORTED
        ACCOUNT_CLOSED, ACCOUNT_FLAGS_KNOWN
        TRANSFER_LINKED, TRANSFER_PENDING, TRANSFER_POST_PENDING_TRANSFER
        TRANSFER_VOID_PENDING_TRANSFER, TRANSFER_BALANCING_DEBIT, TRANSFER_BALANCING_CREDIT
        TRANSFER_CLOSING_DEBIT, TRANSFER_CLOSING_CREDIT, TRANSFER_IMPORTED, TRANSFER_FLAGS_KNOWN
        ACCOUNT_FILTER_DEBITS, ACCOUNT_FILTER_CREDITS, ACCOUNT_FILTER_REVERSED
        ACCOUNT_FILTER_FLAGS_KNOWN, QUERY_FILTER_REVERSED, QUERY_FILTER_FLAGS_KNOWN
        KIND_START, KIND_SESSION, KIND_SESSION_EVICTED, KIND_REQUEST, KIND_BATCH, KIND_ACCOUNT
        KIND_TRANSFER, KIND_RESOLUTION, KIND_BURNED_ID, KIND_OUTCOME
        HOLD_POSTED, HOLD_VOIDED, HOLD_EXPIRED
        VERDICT_REPLY, VERDICT_EVICT, VERDICT_PONG, VERDICT_DROP, VERDICT_RESEND
        EVICT_NO_SESSION, EVICT_CLIENT_RELEASE_TOO_LOW, EVICT_CLIENT_RELEASE_TOO_HIGH
        EVICT_INVALID_REQUEST_OPERATION, EVICT_INVALID_REQUEST_BODY
        EVICT_INVALID_REQUEST_BODY_SIZE, EVICT_SESSION_TOO_LOW, EVICT_SESSION_RELEASE_MISMATCH
        OPERATION_REGISTER, OPERATION_LOOKUP_ACCOUNTS, OPERATION_LOOKUP_TRANSFERS
        OPERATION_GET_ACCOUNT_TRANSFERS, OPERATION_GET_ACCOUNT_BALANCES
        OPERATION_QUERY_ACCOUNTS, OPERATION_QUERY_TRANSFERS, OPERATION_CREATE_ACCOUNTS
        OPERATION_CREATE_TRANSFERS
        JOURNAL_KIND_VERSION, MESSAGE_BYTES_MAX, MESSAGE_HEADER_BYTES, MESSAGE_BODY_BYTES_MAX
        EVENTS_MAX, EXPIRIES_MAX, BATCHES_MAX, MEMTABLES_MAX, EVENT_BYTES_WORST, REQUEST_BYTES_FIXED
        PLACE_TRANSFER, PLACE_BURNED_ID, PLACE_EXPIRY_OF_DEBIT, PLACE_EXPIRY_OF_CREDIT
        PLACE_KIND_MASK, PLACE_OFFSET_SHIFT, PLACE_OFFSET_MASK
        PLACE_GROUP_SHIFT
        EVENT_BYTES, EVENT_FLAGS_AT, EVENT_DEBIT_ACCOUNT_ID_AT, EVENT_CREDIT_ACCOUNT_ID_AT
        EVENT_PENDING_ID_AT
    u64 NS_PER_SECOND
    u64 TIMESTAMP_MAX
