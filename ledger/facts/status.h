/* Every result code of an event, once, in order of precedence.
 *
 * S(name, value, transient): when an event breaks several rules, the first in the list is its
 * answer. A transient failure of a transfer uses up ("burns") its id, because the same transfer
 * might succeed later and the client must not be able to mistake one for the other. The numbers
 * are the protocol's and historic; retired ones (18, and 0 for success) are never sent.
 */
#ifndef LEDGER_STATUS_H
#define LEDGER_STATUS_H

#define STATUS_CREATED 0xFFFFFFFFu

#define ACCOUNT_STATUSES(S)                                  \
    S(LINKED_EVENT_FAILED, 1, 0)                             \
    S(LINKED_EVENT_CHAIN_OPEN, 2, 0)                         \
    S(IMPORTED_EVENT_EXPECTED, 22, 0)                        \
    S(IMPORTED_EVENT_NOT_EXPECTED, 23, 0)                    \
    S(TIMESTAMP_MUST_BE_ZERO, 3, 0)                          \
    S(IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE, 24, 0)          \
    S(IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE, 25, 0)      \
    S(RESERVED_FIELD, 4, 0)                                  \
    S(RESERVED_FLAG, 5, 0)                                   \
    S(ID_MUST_NOT_BE_ZERO, 6, 0)                             \
    S(ID_MUST_NOT_BE_INT_MAX, 7, 0)                          \
    S(EXISTS_WITH_DIFFERENT_FLAGS, 15, 0)                    \
    S(EXISTS_WITH_DIFFERENT_USER_DATA_128, 16, 0)            \
    S(EXISTS_WITH_DIFFERENT_USER_DATA_64, 17, 0)             \
    S(EXISTS_WITH_DIFFERENT_USER_DATA_32, 18, 0)             \
    S(EXISTS_WITH_DIFFERENT_LEDGER, 19, 0)                   \
    S(EXISTS_WITH_DIFFERENT_CODE, 20, 0)                     \
    S(EXISTS, 21, 0)                                         \
    S(FLAGS_ARE_MUTUALLY_EXCLUSIVE, 8, 0)                    \
    S(DEBITS_PENDING_MUST_BE_ZERO, 9, 0)                     \
    S(DEBITS_POSTED_MUST_BE_ZERO, 10, 0)                     \
    S(CREDITS_PENDING_MUST_BE_ZERO, 11, 0)                   \
    S(CREDITS_POSTED_MUST_BE_ZERO, 12, 0)                    \
    S(LEDGER_MUST_NOT_BE_ZERO, 13, 0)                        \
    S(CODE_MUST_NOT_BE_ZERO, 14, 0)                          \
    S(IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS, 26, 0)

#define TRANSFER_STATUSES(S)                                         \
    S(LINKED_EVENT_FAILED, 1, 0)                                     \
    S(LINKED_EVENT_CHAIN_OPEN, 2, 0)                                 \
    S(IMPORTED_EVENT_EXPECTED, 56, 0)                                \
    S(IMPORTED_EVENT_NOT_EXPECTED, 57, 0)                            \
    S(TIMESTAMP_MUST_BE_ZERO, 3, 0)                                  \
    S(IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE, 58, 0)                  \
    S(IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE, 59, 0)              \
    S(RESERVED_FLAG, 4, 0)                                           \
    S(ID_MUST_NOT_BE_ZERO, 5, 0)                                     \
    S(ID_MUST_NOT_BE_INT_MAX, 6, 0)                                  \
    S(EXISTS_WITH_DIFFERENT_FLAGS, 36, 0)                            \
    S(EXISTS_WITH_DIFFERENT_PENDING_ID, 40, 0)                       \
    S(EXISTS_WITH_DIFFERENT_TIMEOUT, 44, 0)                          \
    S(EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID, 37, 0)                 \
    S(EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID, 38, 0)                \
    S(EXISTS_WITH_DIFFERENT_AMOUNT, 39, 0)                           \
    S(EXISTS_WITH_DIFFERENT_USER_DATA_128, 41, 0)                    \
    S(EXISTS_WITH_DIFFERENT_USER_DATA_64, 42, 0)                     \
    S(EXISTS_WITH_DIFFERENT_USER_DATA_32, 43, 0)                     \
    S(EXISTS_WITH_DIFFERENT_LEDGER, 67, 0)                           \
    S(EXISTS_WITH_DIFFERENT_CODE, 45, 0)                             \
    S(EXISTS, 46, 0)                                                 \
    S(ID_ALREADY_FAILED, 68, 0)                                      \
    S(FLAGS_ARE_MUTUALLY_EXCLUSIVE, 7, 0)                            \
    S(DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO, 8, 0)                       \
    S(DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX, 9, 0)                    \
    S(CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO, 10, 0)                     \
    S(CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX, 11, 0)                  \
    S(ACCOUNTS_MUST_BE_DIFFERENT, 12, 0)                             \
    S(PENDING_ID_MUST_BE_ZERO, 13, 0)                                \
    S(PENDING_ID_MUST_NOT_BE_ZERO, 14, 0)                            \
    S(PENDING_ID_MUST_NOT_BE_INT_MAX, 15, 0)                         \
    S(PENDING_ID_MUST_BE_DIFFERENT, 16, 0)                           \
    S(TIMEOUT_RESERVED_FOR_PENDING_TRANSFER, 17, 0)                  \
    S(CLOSING_TRANSFER_MUST_BE_PENDING, 64, 0)                       \
    S(LEDGER_MUST_NOT_BE_ZERO, 19, 0)                                \
    S(CODE_MUST_NOT_BE_ZERO, 20, 0)                                  \
    S(DEBIT_ACCOUNT_NOT_FOUND, 21, 1)                                \
    S(CREDIT_ACCOUNT_NOT_FOUND, 22, 1)                               \
    S(ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER, 23, 0)                     \
    S(TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS, 24, 0)         \
    S(PENDING_TRANSFER_NOT_FOUND, 25, 1)                             \
    S(PENDING_TRANSFER_NOT_PENDING, 26, 0)                           \
    S(PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID, 27, 0)        \
    S(PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID, 28, 0)       \
    S(PENDING_TRANSFER_HAS_DIFFERENT_LEDGER, 29, 0)                  \
    S(PENDING_TRANSFER_HAS_DIFFERENT_CODE, 30, 0)                    \
    S(EXCEEDS_PENDING_TRANSFER_AMOUNT, 31, 0)                        \
    S(PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT, 32, 0)                  \
    S(PENDING_TRANSFER_ALREADY_POSTED, 33, 0)                        \
    S(PENDING_TRANSFER_ALREADY_VOIDED, 34, 0)                        \
    S(PENDING_TRANSFER_EXPIRED, 35, 0)                               \
    S(IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS, 60, 0)              \
    S(IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT, 61, 0)   \
    S(IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT, 62, 0)  \
    S(IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO, 63, 0)                    \
    S(DEBIT_ACCOUNT_ALREADY_CLOSED, 65, 1)                           \
    S(CREDIT_ACCOUNT_ALREADY_CLOSED, 66, 1)                          \
    S(OVERFLOWS_DEBITS_PENDING, 47, 0)                               \
    S(OVERFLOWS_CREDITS_PENDING, 48, 0)                              \
    S(OVERFLOWS_DEBITS_POSTED, 49, 0)                                \
    S(OVERFLOWS_CREDITS_POSTED, 50, 0)                               \
    S(OVERFLOWS_DEBITS, 51, 0)                                       \
    S(OVERFLOWS_CREDITS, 52, 0)                                      \
    S(OVERFLOWS_TIMEOUT, 53, 0)                                      \
    S(EXCEEDS_CREDITS, 54, 1)                                        \
    S(EXCEEDS_DEBITS, 55, 1)

#define AS_ACCOUNT_STATUS(name, value, transient) ACCOUNT_##name##_STATUS = (value),
#define AS_TRANSFER_STATUS(name, value, transient) TRANSFER_##name##_STATUS = (value),
enum { ACCOUNT_STATUSES(AS_ACCOUNT_STATUS) };
enum { TRANSFER_STATUSES(AS_TRANSFER_STATUS) };

/* A number used twice does not compile. */
#define AS_CASE(name, value, transient) case (value): return (transient);
static inline int account_status_transient(unsigned status) {
    switch (status) { ACCOUNT_STATUSES(AS_CASE) default: return 0; }
}
static inline int transfer_status_transient(unsigned status) {
    switch (status) { TRANSFER_STATUSES(AS_CASE) default: return 0; }
}

#endif
