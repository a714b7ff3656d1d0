/* Every fixed-size record of the ledger, field by field, each written once.
 *
 * Here live the records a client sends and receives, the records the journal holds, and the two
 * records that doors and core exchange in memory. Other languages' views (numpy dtypes, enums,
 * the reference in docs/) are built from these lists, never typed again. Everything is
 * little-endian, without padding; the size of each record is proved when this file compiles.
 * This file knows nothing of what the records mean to the state machine, of disks or of sockets.
 */
#ifndef LEDGER_RECORD_H
#define LEDGER_RECORD_H

#include <stddef.h>

#include "base/types.h"

/* ---- what a client sends and receives: F(type, name, doc), A(type, name, count, doc) -------- */

#define ACCOUNT_FIELDS(F, A)                                                                   \
    F(u128, id, "unique in the book; neither 0 nor 2^128-1")                                   \
    F(u128, debits_pending, "sum of open holds that debit the account")                        \
    F(u128, debits_posted, "sum of posted transfers that debit the account")                   \
    F(u128, credits_pending, "sum of open holds that credit the account")                      \
    F(u128, credits_posted, "sum of posted transfers that credit the account")                 \
    F(u128, user_data_128, "the application's own; 0 when unused")                             \
    F(u64, user_data_64, "the application's own; 0 when unused")                               \
    F(u32, user_data_32, "the application's own; 0 when unused")                               \
    F(u32, reserved, "0")                                                                      \
    F(u32, ledger, "what is counted (a currency); transfers stay inside one; not 0")           \
    F(u16, code, "the application's kind of account; not 0")                                   \
    F(u16, flags, "AccountFlags")                                                              \
    F(u64, timestamp, "ns since 1970; given by the ledger; 0 in requests unless imported")

#define TRANSFER_FIELDS(F, A)                                                                  \
    F(u128, id, "unique in the book; the idempotency key; neither 0 nor 2^128-1")              \
    F(u128, debit_account_id, "account debited")                                               \
    F(u128, credit_account_id, "account credited")                                             \
    F(u128, amount, "in the ledger's smallest unit")                                           \
    F(u128, pending_id, "the hold that a post or void resolves; else 0")                       \
    F(u128, user_data_128, "the application's own; 0 when unused")                             \
    F(u64, user_data_64, "the application's own; 0 when unused")                               \
    F(u32, user_data_32, "the application's own; 0 when unused")                               \
    F(u32, timeout, "seconds until a hold expires; 0 for never")                               \
    F(u32, ledger, "the ledger of both accounts")                                              \
    F(u16, code, "the application's reason for the transfer; not 0")                           \
    F(u16, flags, "TransferFlags")                                                             \
    F(u64, timestamp, "ns since 1970; given by the ledger; 0 in requests unless imported")

#define CREATE_RESULT_FIELDS(F, A)                                                             \
    F(u64, timestamp, "of the stored record, or when the event was judged; ns since 1970")     \
    F(u32, status, "AccountStatus or TransferStatus; created is 2^32-1")                       \
    F(u32, reserved, "0")

#define ACCOUNT_FILTER_FIELDS(F, A)                                                            \
    F(u128, account_id, "the account whose transfers or balances are asked for")               \
    F(u128, user_data_128, "0 for any")                                                        \
    F(u64, user_data_64, "0 for any")                                                          \
    F(u32, user_data_32, "0 for any")                                                          \
    F(u16, code, "0 for any")                                                                  \
    A(u8, reserved, 58, "0")                                                                   \
    F(u64, timestamp_min, "inclusive; 0 for open")                                             \
    F(u64, timestamp_max, "inclusive; 0 for open")                                             \
    F(u32, limit, "results at most; not 0; clamped to 8,189")                                  \
    F(u32, flags, "AccountFilterFlags")

#define QUERY_FILTER_FIELDS(F, A)                                                              \
    F(u128, user_data_128, "0 for any")                                                        \
    F(u64, user_data_64, "0 for any")                                                          \
    F(u32, user_data_32, "0 for any")                                                          \
    F(u32, ledger, "0 for any")                                                                \
    F(u16, code, "0 for any")                                                                  \
    A(u8, reserved, 6, "0")                                                                    \
    F(u64, timestamp_min, "inclusive; 0 for open")                                             \
    F(u64, timestamp_max, "inclusive; 0 for open")                                             \
    F(u32, limit, "results at most; not 0; clamped to 8,189")                                  \
    F(u32, flags, "QueryFilterFlags")

#define ACCOUNT_BALANCE_FIELDS(F, A)                                                           \
    F(u128, debits_pending, "right after the transfer")                                        \
    F(u128, debits_posted, "right after the transfer")                                         \
    F(u128, credits_pending, "right after the transfer")                                       \
    F(u128, credits_posted, "right after the transfer")                                        \
    F(u64, timestamp, "of the transfer")                                                       \
    A(u8, reserved, 56, "0")

/* ---- what the journal holds ------------------------------------------------------------------ */

#define GROUP_MAGIC "LEDGRGRP"
enum { GROUP_FORMAT = 1 };

#define GROUP_HEADER_FIELDS(F, A)                                                              \
    A(u8, magic, 8, GROUP_MAGIC)                                                               \
    F(u16, format, "1")                                                                        \
    F(u16, header_bytes, "256")                                                                \
    F(u32, partition, "0")                                                                     \
    F(u128, cluster, "the book's cluster id")                                                  \
    F(u64, epoch, "0 while a book has one writer for ever")                                    \
    F(u64, group, "number of this group, +1 each, from 1; also the key, big-endian")           \
    F(u64, position_first, "position of the first record")                                     \
    F(u32, position_count, "records in the body; each takes one position")                     \
    F(u32, run_count, "runs in the body")                                                      \
    F(u64, clock_before, "ledger clock before the group; ns")                                  \
    F(u64, clock_after, "ledger clock after the group; ns")                                    \
    F(u64, transfer_timestamp_min, "lowest transfer timestamp in the group; 0 for none")       \
    F(u64, transfer_timestamp_max, "highest transfer timestamp in the group; 0 for none")      \
    F(u64, body_bytes, "length of the body; a multiple of 16")                                 \
    A(u8, digest_previous, 32, "SHA-256 digest of the group before; zeros in group 1")         \
    A(u8, state_hash, 32, "state hash before the group, or zeros")                             \
    A(u8, reserved, 72, "0")                                                                   \
    A(u8, check, 16, "AEGIS-128L check of the 240 bytes before it")

#define RUN_FIELDS(F, A)                                                                       \
    F(u16, kind, "JournalKind")                                                                \
    F(u16, version, "1")                                                                       \
    F(u32, count, "records in the run")                                                        \
    F(u32, bytes, "length of the records, padded with zeros to a multiple of 16")              \
    F(u32, reserved, "0")

#define START_FIELDS(F, A)                                                                     \
    F(u64, timestamp, "ledger clock when this run of the server began; ns")                    \
    F(u64, wall, "wall clock at that moment; ns")                                              \
    F(u32, release, "release of the software, patch in bits 0-7, minor 8-15, major 16-31")     \
    A(u8, reserved, 4, "0")                                                                    \
    F(u64, id, "random; clients say it again; 0 in older journals: the timestamp is")

#define SESSION_FIELDS(F, A)                                                                   \
    F(u128, client, "client id; not 0")                                                        \
    F(u128, checksum, "of the register request")                                               \
    F(u64, session, "session number: the position of this record")                             \
    F(u64, timestamp, "of the register reply; ns")                                             \
    F(u32, release, "the client's release")                                                    \
    A(u8, reserved, 12, "0")

#define SESSION_EVICTED_FIELDS(F, A)                                                           \
    F(u128, client, "client id")                                                               \
    F(u64, session, "session number that ends")                                                \
    F(u64, timestamp, "ledger clock; ns")

#define REQUEST_FIELDS(F, A)                                                                   \
    F(u128, client, "client id; 0 for an in-process request")                                  \
    F(u128, checksum, "of the request; 0 in-process")                                          \
    F(u64, session, "session number; 0 in-process")                                            \
    F(u64, timestamp, "of the reply; ns")                                                      \
    F(u64, identity, "who asked; 0 while doors have no identities")                            \
    F(u32, number, "request number in its session")                                            \
    F(u32, release, "the client's release")                                                    \
    F(u32, event_count, "events in the request")                                               \
    F(u32, outcome_count, "outcome records that follow the request's effects")                 \
    F(u16, batch_count, "batches; a run of batch counts follows unless this is 1")             \
    F(u8, operation, "Operation")                                                              \
    A(u8, reserved, 5, "0")

#define BATCH_FIELDS(F, A) F(u16, event_count, "events in the batch")

#define OUTCOME_FIELDS(F, A)                                                                   \
    F(u32, event, "index in the request of an event that is not plainly created")              \
    F(u32, status, "AccountStatus or TransferStatus")                                          \
    F(u64, timestamp, "of the result; ns")

#define RESOLUTION_FIELDS(F, A)                                                                \
    F(u64, position, "position of the transfer that opened the hold")                          \
    F(u64, timestamp, "of the post, void or expiry; ns")                                       \
    F(u128, amount, "of the hold: what leaves both pending balances")                          \
    F(u16, flags, "TransferFlags of the transfer that opened the hold")                        \
    F(u16, outcome, "HoldOutcome")                                                             \
    A(u8, reserved, 12, "0")

#define BURNED_ID_FIELDS(F, A)                                                                 \
    F(u128, id, "transfer id that failed for a transient reason and is used up")               \
    F(u64, timestamp, "when the event was judged; ns")                                         \
    F(u32, status, "TransferStatus that burned it")                                            \
    F(u32, reserved, "0")

/* ---- what doors and core hand each other in memory ------------------------------------------- */

#define ARRIVAL_FIELDS(F, A)                                                                   \
    F(u128, client, "client id; 0 for an in-process request")                                  \
    F(u128, checksum, "of the request; a resend has the same")                                 \
    F(u128, parent, "context of the last reply the client saw; 0 for none")                    \
    F(u64, session, "session number; 0 in a register request")                                 \
    F(u32, number, "request number in its session")                                            \
    F(u32, release, "the client's release")                                                    \
    F(u32, events_offset, "where the events begin in the buffer handed over with the arrival") \
    F(u32, event_count, "events in all batches")                                               \
    F(u32, batches_offset, "where the u16 count of batch 1 lies; batch b lies 2*(b-1) before") \
    F(u16, batch_count, "batches; when 1 the count is event_count")                            \
    F(u8, operation, "Operation")                                                              \
    F(u8, verdict, "Verdict of the codec")                                                     \
    F(u8, reason, "EvictionReason when the verdict is evict")                                  \
    A(u8, reserved, 3, "0")                                                                    \
    F(u32, frame_offset, "where the frame begins in the buffer")                               \
    F(u64, ping_timestamp, "the client's own clock in a ping, echoed; ns")                     \
    F(u64, route, "who asks: a request that comes again is answered once for each")           \
    A(u8, reserved_2, 8, "0")

#define ANSWER_FIELDS(F, A)                                                                    \
    F(u128, client, "client id")                                                               \
    F(u128, checksum, "of the request that is answered")                                       \
    F(u64, position, "last position the answer saw")                                           \
    F(u64, timestamp, "of the reply, ledger clock; ns")                                        \
    F(u64, group, "resend: the group that holds the request")                                  \
    F(u32, record_offset, "resend: where its record lies in the group's body")                 \
    F(u32, arrival, "index of the arrival that is answered")                                   \
    F(u32, number, "request number")                                                           \
    F(u32, release, "the client's release")                                                    \
    F(u32, payload_offset, "where the results begin in the payload buffer")                    \
    F(u32, payload_bytes, "length of the results")                                             \
    F(u32, counts_offset, "index of the first batch's result count in the counts buffer")      \
    F(u16, batch_count, "batches answered")                                                    \
    F(u8, operation, "Operation")                                                              \
    F(u8, verdict, "Verdict of the core")                                                      \
    F(u8, reason, "EvictionReason when the verdict is evict")                                  \
    F(u8, lost, "evict: 1 when the client saw what this book does not hold")                   \
    A(u8, reserved, 6, "0")                                                                    \
    F(u64, start_id, "id of the start that the position is of; 0 when it is not kept")         \
    F(u64, ping_timestamp, "echoed in a pong")

#define REPLY_FIELDS(F, A)                                                                     \
    F(u128, client, "client id; 0 in a pong")                                                  \
    F(u128, checksum, "of the request that is answered")                                       \
    F(u128, context, "of the reply; the parent of the client's next request")                  \
    F(u64, position, "last position the reply saw; of a register reply the session number")    \
    F(u64, timestamp, "of the reply, ledger clock; ns")                                        \
    F(u64, ping_timestamp, "echoed in a pong")                                                 \
    F(u32, number, "request number")                                                           \
    F(u32, release, "of the reply the client's, else the server's")                            \
    F(u32, payload_offset, "where the results begin in the buffer that was parsed")            \
    F(u32, payload_bytes, "length of the results")                                             \
    F(u32, batches_offset, "where the u16 count of batch 1 lies; batch b lies 2*(b-1) before") \
    F(u32, body_bytes_max, "register reply: longest body a request may have; else 0")          \
    F(u16, batch_count, "batches answered")                                                    \
    F(u8, operation, "Operation")                                                              \
    F(u8, verdict, "Verdict of the client's codec")                                            \
    F(u8, reason, "EvictionReason when the verdict is evict")                                  \
    A(u8, reserved, 11, "0")

/* R(name, C type, LIST, bytes, doc): the records themselves */
#define RECORDS(R)                                                                             \
    R(account, account_t, ACCOUNT_FIELDS, 128, "an account and its balances")                  \
    R(transfer, transfer_t, TRANSFER_FIELDS, 128, "a movement of money between two accounts")  \
    R(create_result, create_result_t, CREATE_RESULT_FIELDS, 16, "the answer to one event")     \
    R(account_filter, account_filter_t, ACCOUNT_FILTER_FIELDS, 128,                            \
      "which transfers or balances of one account")                                            \
    R(query_filter, query_filter_t, QUERY_FILTER_FIELDS, 64, "which accounts or transfers")    \
    R(account_balance, account_balance_t, ACCOUNT_BALANCE_FIELDS, 128,                         \
      "an account's balances right after one transfer")                                        \
    R(group_header, group_header_t, GROUP_HEADER_FIELDS, 256, "opens a group of the journal")  \
    R(run, run_t, RUN_FIELDS, 16, "opens a run of records of one kind in a group")             \
    R(start, start_t, START_FIELDS, 32, "a run of the server begins")                          \
    R(session, session_record_t, SESSION_FIELDS, 64, "a client registered")                    \
    R(session_evicted, session_evicted_t, SESSION_EVICTED_FIELDS, 32, "a session ended")       \
    R(request, request_t, REQUEST_FIELDS, 80, "a request that creates, and how to answer it")  \
    R(batch, batch_t, BATCH_FIELDS, 2, "a batch of a request of several")                      \
    R(outcome, outcome_t, OUTCOME_FIELDS, 16, "the result of an event not plainly created")    \
    R(resolution, resolution_t, RESOLUTION_FIELDS, 48, "a hold was posted, voided or expired") \
    R(burned_id, burned_id_t, BURNED_ID_FIELDS, 32, "a transfer id was used up by a failure")  \
    R(arrival, arrival_t, ARRIVAL_FIELDS, 112, "a frame that was read, for the core")           \
    R(answer, answer_t, ANSWER_FIELDS, 112, "what the core answers, for the codec")            \
    R(reply, reply_t, REPLY_FIELDS, 112, "a frame that a client read")

#define AS_MEMBER(type, name, doc) type name;
#define AS_ARRAY_MEMBER(type, name, count, doc) type name[count];
#define AS_STRUCT(name, ctype, LIST, bytes, doc) \
    typedef struct { LIST(AS_MEMBER, AS_ARRAY_MEMBER) } ctype;
RECORDS(AS_STRUCT)

/* The sum of the fields equals the stated size and the compiler's size: so there is no padding. */
#define PLUS_SIZE(type, name, doc) +sizeof(type)
#define PLUS_ARRAY_SIZE(type, name, count, doc) +sizeof(type) * (count)
#define AS_PROOF(name, ctype, LIST, bytes, doc)                                     \
    _Static_assert(sizeof(ctype) == (bytes), #ctype " has its stated size");        \
    _Static_assert((0 LIST(PLUS_SIZE, PLUS_ARRAY_SIZE)) == (bytes), #ctype " has no padding");
RECORDS(AS_PROOF)

/* ---- numbers with names: E(name, value, doc) ------------------------------------------------- */

#define ACCOUNT_FLAGS(E)                                                                       \
    E(LINKED, 1, "succeeds or fails with the next event of the batch")                         \
    E(DEBITS_MUST_NOT_EXCEED_CREDITS, 2, "debits, holds included, stay within credits posted") \
    E(CREDITS_MUST_NOT_EXCEED_DEBITS, 4, "credits, holds included, stay within debits posted") \
    E(HISTORY, 8, "its balances after each transfer can be asked for")                         \
    E(IMPORTED, 16, "comes from elsewhere with its own timestamp")                             \
    E(CLOSED, 32, "takes no transfer but the void of a hold")

#define TRANSFER_FLAGS(E)                                                                      \
    E(LINKED, 1, "succeeds or fails with the next event of the batch")                         \
    E(PENDING, 2, "opens a hold: moves only the pending balances")                             \
    E(POST_PENDING_TRANSFER, 4, "resolves a hold by moving all or part of it")                 \
    E(VOID_PENDING_TRANSFER, 8, "resolves a hold by releasing it")                             \
    E(BALANCING_DEBIT, 16, "moves at most what the debit account has")                         \
    E(BALANCING_CREDIT, 32, "moves at most what the credit account owes")                      \
    E(CLOSING_DEBIT, 64, "closes the debit account until the hold is voided or expires")       \
    E(CLOSING_CREDIT, 128, "closes the credit account until the hold is voided or expires")     \
    E(IMPORTED, 256, "comes from elsewhere with its own timestamp")

#define ACCOUNT_FILTER_FLAGS(E)                                                                \
    E(DEBITS, 1, "transfers that debit the account")                                           \
    E(CREDITS, 2, "transfers that credit the account")                                         \
    E(REVERSED, 4, "newest first")

#define QUERY_FILTER_FLAGS(E) E(REVERSED, 1, "newest first")

/* K(E, name, value, record): the record that a run of the kind holds, by its name in RECORDS */
#define JOURNAL_KIND_RECORDS(K, E)                                                             \
    K(E, START, 1, start)                                                                      \
    K(E, SESSION, 2, session)                                                                  \
    K(E, SESSION_EVICTED, 3, session_evicted)                                                  \
    K(E, REQUEST, 4, request)                                                                  \
    K(E, BATCH, 5, batch)                                                                      \
    K(E, ACCOUNT, 6, account)                                                                  \
    K(E, TRANSFER, 7, transfer)                                                                \
    K(E, RESOLUTION, 8, resolution)                                                            \
    K(E, BURNED_ID, 9, burned_id)                                                              \
    K(E, OUTCOME, 10, outcome)
#define AS_NUMBERED_KIND(E, name, value, record) E(name, value, #record)
#define JOURNAL_KINDS(E) JOURNAL_KIND_RECORDS(AS_NUMBERED_KIND, E)

#define HOLD_OUTCOMES(E)                                                                       \
    E(POSTED, 1, "all or part was moved; the rest was released")                               \
    E(VOIDED, 2, "all was released")                                                           \
    E(EXPIRED, 3, "all was released, by time")

#define VERDICTS(E)                                                                            \
    E(REPLY, 1, "codec: a request for the core; core: answer with the payload")                \
    E(EVICT, 2, "answer with an eviction and its reason")                                      \
    E(PONG, 3, "answer a ping")                                                                \
    E(DROP, 4, "answer nothing")                                                               \
    E(RESEND, 5, "answer with the original reply, rebuilt from the journal")

#define EVICTION_REASONS(E)                                                                    \
    E(NO_SESSION, 1, "the server does not know the session")                                   \
    E(CLIENT_RELEASE_TOO_LOW, 2, "the client is older than the server serves")                 \
    E(CLIENT_RELEASE_TOO_HIGH, 3, "the client is newer than the server serves")                \
    E(INVALID_REQUEST_OPERATION, 4, "unknown operation")                                       \
    E(INVALID_REQUEST_BODY, 5, "the body does not fit the operation")                          \
    E(INVALID_REQUEST_BODY_SIZE, 6, "the body is too large, or no register body")              \
    E(SESSION_TOO_LOW, 7, "the client registered again since")                                 \
    E(SESSION_RELEASE_MISMATCH, 8, "the session was opened by another release")

/* O(name, number, event record, result record, exactly one event a batch, creates, doc) */
#define OPERATIONS(O)                                                                          \
    O(LOOKUP_ACCOUNTS, 140, id, account, 0, 0, "accounts by id")                               \
    O(LOOKUP_TRANSFERS, 141, id, transfer, 0, 0, "transfers by id")                            \
    O(GET_ACCOUNT_TRANSFERS, 142, account_filter, transfer, 1, 0, "transfers of an account")   \
    O(GET_ACCOUNT_BALANCES, 143, account_filter, account_balance, 1, 0,                        \
      "balances of an account over time")                                                      \
    O(QUERY_ACCOUNTS, 144, query_filter, account, 1, 0, "accounts by their fields")            \
    O(QUERY_TRANSFERS, 145, query_filter, transfer, 1, 0, "transfers by their fields")         \
    O(CREATE_ACCOUNTS, 146, account, create_result, 0, 1, "create accounts")                   \
    O(CREATE_TRANSFERS, 147, transfer, create_result, 0, 1, "create transfers")

enum { OPERATION_REGISTER = 2 };

#define AS_ACCOUNT_FLAG(name, value, doc) ACCOUNT_##name = (value),
#define AS_TRANSFER_FLAG(name, value, doc) TRANSFER_##name = (value),
#define AS_ACCOUNT_FILTER_FLAG(name, value, doc) ACCOUNT_FILTER_##name = (value),
#define AS_QUERY_FILTER_FLAG(name, value, doc) QUERY_FILTER_##name = (value),
#define AS_KIND(name, value, doc) KIND_##name = (value),
#define AS_HOLD(name, value, doc) HOLD_##name = (value),
#define AS_VERDICT(name, value, doc) VERDICT_##name = (value),
#define AS_EVICT(name, value, doc) EVICT_##name = (value),
#define AS_OPERATION(name, value, event, result, single, creates, doc) OPERATION_##name = (value),
enum { ACCOUNT_FLAGS(AS_ACCOUNT_FLAG) ACCOUNT_FLAGS_KNOWN = 63 };
enum { TRANSFER_FLAGS(AS_TRANSFER_FLAG) TRANSFER_FLAGS_KNOWN = 511 };
enum { ACCOUNT_FILTER_FLAGS(AS_ACCOUNT_FILTER_FLAG) ACCOUNT_FILTER_FLAGS_KNOWN = 7 };
enum { QUERY_FILTER_FLAGS(AS_QUERY_FILTER_FLAG) QUERY_FILTER_FLAGS_KNOWN = 1 };
enum { JOURNAL_KINDS(AS_KIND) };
enum { HOLD_OUTCOMES(AS_HOLD) };
enum { VERDICTS(AS_VERDICT) };
enum { EVICTION_REASONS(AS_EVICT) };
enum { OPERATIONS(AS_OPERATION) };

/* Bytes of a record of the journal kind; 0 for a kind that is not known. */
#define AS_BYTES_OF(name, ctype, LIST, bytes, doc) BYTES_OF_##name = (bytes),
#define AS_BYTES_OF_KIND(E, name, value, record) \
    case KIND_##name: return BYTES_OF_##record;
enum { RECORDS(AS_BYTES_OF) };
static inline u32 record_bytes_of_kind(u16 kind) {
    switch (kind) {
        JOURNAL_KIND_RECORDS(AS_BYTES_OF_KIND, )
    default: return 0;
    }
}

enum {
    ID_BYTES = 16,
    JOURNAL_KIND_VERSION = 1,
    /* The message size of the protocol bounds a request and its reply. */
    MESSAGE_BYTES_MAX = 1048576,
    MESSAGE_HEADER_BYTES = 256,
    MESSAGE_BODY_BYTES_MAX = MESSAGE_BYTES_MAX - MESSAGE_HEADER_BYTES,
    /* One full body less its trailer of 128 bytes, in records of 128 bytes. */
    EVENTS_MAX = MESSAGE_BODY_BYTES_MAX / 128 - 1,
    EXPIRIES_MAX = EVENTS_MAX + 1,
    /* 0xFFFF says "too many" and 0xFFFE is the last count the protocol can say. */
    BATCHES_MAX = 65534,
    /* In memory: one open, the others full and being flushed. */
    MEMTABLES_MAX = 5,
};
_Static_assert(EVENTS_MAX == 8189, "the clients of the protocol count on 8,189 events");

/* What a request may add to a group: the worst event is a post, the rest covers the records of the
 * request itself, its run headers and padding. */
enum {
    EVENT_BYTES_WORST = sizeof(transfer_t) + sizeof(resolution_t) + 2 * sizeof(run_t) +
                        sizeof(outcome_t),
    REQUEST_BYTES_FIXED = 256,
};

/* A place says where a record lies in the journal: group << 20 | offset in the body / 16 << 3 | its
 * kind. Places order as positions do; the longest body ends below 2^17 * 16 bytes. */
enum {
    PLACE_TRANSFER = 0,
    PLACE_BURNED_ID = 1,
    PLACE_EXPIRY_OF_DEBIT = 2, /* a resolution, as it changes the account debited by the hold */
    PLACE_EXPIRY_OF_CREDIT = 3,
    PLACE_KIND_MASK = 7,
    PLACE_OFFSET_SHIFT = 3,
    PLACE_OFFSET_MASK = (1 << 17) - 1,
    PLACE_GROUP_SHIFT = 20,
};

/* Events arrive at any address, so their fields are read by offset. */
enum {
    EVENT_BYTES = sizeof(transfer_t),
    EVENT_FLAGS_AT = offsetof(transfer_t, flags),
    EVENT_DEBIT_ACCOUNT_ID_AT = offsetof(transfer_t, debit_account_id),
    EVENT_PENDING_ID_AT = offsetof(transfer_t, pending_id),
    EVENT_CREDIT_ACCOUNT_ID_AT = offsetof(transfer_t, credit_account_id),
};
_Static_assert(sizeof(account_t) == EVENT_BYTES, "accounts and transfers are events of one size");
_Static_assert(offsetof(account_t, flags) == EVENT_FLAGS_AT, "both keep flags at one place");

#define NS_PER_SECOND 1000000000ull
#define TIMESTAMP_MAX ((u64)INT64_MAX)

#endif
