/* The population of the load generator: what account i and transfer m of a run look like.
 *
 * Every record is a pure function of the run's seed and its number, so nothing has to be kept to
 * send it again, to know what the ledger must have stored, or to ask for it after a crash. Also
 * here: how results are judged and counted, and the histogram of latencies. This file knows records
 * and statuses; it knows no frame, session or clock.
 */
#ifndef LEDGER_LOAD_H
#define LEDGER_LOAD_H

#include <math.h>
#include <string.h>

#include "facts/record.h"
#include "facts/status.h"

/* ---- random numbers that can be drawn again ----------------------------------------------- */

static inline u64 load_mix(u64 value) {
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ value >> 27) * 0x94D049BB133111EBull;
    return value ^ value >> 31;
}

typedef struct {
    u64 state;
} load_random_t;

static inline u64 load_next(load_random_t *random) {
    return load_mix(random->state += 0x9E3779B97F4A7C15ull);
}

static inline u64 load_below(load_random_t *random, u64 bound) {
    return (u64)((u128)load_next(random) * bound >> 64);
}

/* A share of all draws as the bound that this part of them lies below. */
static inline u64 load_share(double share) {
    return share >= 1 ? ~0ull : (u64)ldexp(share, 64);
}

static inline u128 load_u128(u64 high, u64 low) { return (u128)high << 64 | low; }
static inline u64 load_low(u128 value) { return (u64)value; }
static inline u64 load_high(u128 value) { return (u64)(value >> 64); }

/* ---- Zipf by rejection-inversion: the share of rank k falls as k^-exponent ----------------- */

typedef struct {
    double exponent, first, last, shortcut;
} load_zipf_t;

/* log1p(x)/x and expm1(x)/x, whole where x vanishes: so exponent 1 is no special case. */
static inline double load_log1p_ratio(double x) { return fabs(x) > 1e-8 ? log1p(x) / x : 1; }
static inline double load_expm1_ratio(double x) { return fabs(x) > 1e-8 ? expm1(x) / x : 1; }

static inline double load_zipf_integral(const load_zipf_t *zipf, double x) {
    return load_expm1_ratio((1 - zipf->exponent) * log(x)) * log(x);
}

static inline double load_zipf_inverse(const load_zipf_t *zipf, double area) {
    return exp(load_log1p_ratio(fmax(area * (1 - zipf->exponent), -1)) * area);
}

static inline double load_zipf_density(const load_zipf_t *zipf, double x) {
    return exp(-zipf->exponent * log(x));
}

static inline void load_zipf_begin(load_zipf_t *zipf, double exponent, u64 count) {
    zipf->exponent = exponent;
    zipf->first = load_zipf_integral(zipf, 1.5) - 1;
    zipf->last = load_zipf_integral(zipf, (double)count + 0.5);
    zipf->shortcut = 2 - load_zipf_inverse(zipf, load_zipf_integral(zipf, 2.5) -
                                                     load_zipf_density(zipf, 2));
}

enum { LOAD_DRAWS_MAX = 64 }; /* far more than are ever needed; a bound all the same */

static inline u64 load_zipf_draw(const load_zipf_t *zipf, load_random_t *random, u64 count) {
    u64 rank = 1;
    for (int tries = 0; tries < LOAD_DRAWS_MAX; tries++) {
        const double share = ldexp((double)(load_next(random) >> 11), -53);
        const double area = zipf->last + share * (zipf->first - zipf->last);
        const double x = load_zipf_inverse(zipf, area);
        rank = x < 1 ? 1 : (u64)(x + 0.5);
        if (rank > count) rank = count;
        if ((double)rank - x <= zipf->shortcut) break;
        if (area >= load_zipf_integral(zipf, (double)rank + 0.5) -
                        load_zipf_density(zipf, (double)rank))
            break;
    }
    return rank - 1;
}

/* ---- records ------------------------------------------------------------------------------ */

enum { LOAD_UNIFORM, LOAD_ZIPF, LOAD_HOT };
enum { LOAD_ORDERED, LOAD_RANDOM };

enum {
    LOAD_AMOUNT_MAX = 10000,
    LOAD_CODES = 1000,
    LOAD_ACCOUNT_CODE = 1,
    /* What is compared of a stored transfer: all but the timestamp, which ends it. */
    LOAD_COMPARED_BYTES = offsetof(transfer_t, timestamp),
};

typedef struct {
    u64 seed;
    u64 accounts;
    u64 hot;     /* the shares as bounds of a draw */
    u64 pending;
    u64 resolved;
    u32 connection, connections;
    u32 distribution;
    u32 id_order;
    u32 ledger;
    u32 timeout; /* of holds; seconds */
    u16 account_flags;
    load_zipf_t zipf;
} population_t;

/* Numbers count up in each connection; the whole run's numbers interleave them, so that ordered ids
 * rise with time over all connections. */
static inline u64 load_global(const population_t *population, u64 number) {
    return number * population->connections + population->connection;
}

static inline u128 load_account_id(const population_t *population, u64 index) {
    return load_u128(load_mix(population->seed ^ 0xA5A5A5A5A5A5A5A5ull) >> 1, index + 1);
}

static inline u128 load_transfer_id(const population_t *population, u64 number) {
    const u64 global = load_global(population, number);
    if (population->id_order == LOAD_ORDERED)
        return load_u128(load_mix(population->seed ^ 0x5A5A5A5A5A5A5A5Aull) >> 1, global + 1);
    return load_u128(load_mix(global ^ load_mix(population->seed)) >> 1,
                     load_mix(global + load_mix(~population->seed)));
}

static inline load_random_t load_stream(const population_t *population, u64 number) {
    const u64 global = load_global(population, number);
    return (load_random_t){load_mix(population->seed ^ load_mix(global + 0xD1B54A32D192ED03ull))};
}

static inline void load_account(const population_t *population, u64 index, account_t *account) {
    memset(account, 0, sizeof *account);
    account->id = load_account_id(population, index);
    account->user_data_64 = index;
    account->ledger = population->ledger;
    account->code = LOAD_ACCOUNT_CODE;
    account->flags = population->account_flags;
}

/* Numbers go in pairs when holds are resolved: the odd one may resolve the even one before it. A
 * pair is never split between sessions, so the hold is there when its resolution is executed. */
static inline int load_is_hold(const population_t *population, u64 number, u64 draw) {
    if (population->resolved == 0) return draw < population->pending;
    return number % 2 == 0 && draw / 2 < population->pending;
}

static inline u64 load_choose_account(const population_t *population, load_random_t *random) {
    if (population->distribution == LOAD_ZIPF)
        return load_zipf_draw(&population->zipf, random, population->accounts);
    return load_below(random, population->accounts);
}

/* The credited account is spread exactly as asked; the debited one is drawn until it differs. */
static inline void load_choose_accounts(const population_t *population, load_random_t *random,
                                        u64 *debit, u64 *credit) {
    *credit = load_choose_account(population, random);
    if (population->distribution == LOAD_HOT && load_next(random) < population->hot) *credit = 0;
    *debit = *credit;
    for (int tries = 0; tries < LOAD_DRAWS_MAX && *debit == *credit; tries++)
        *debit = load_choose_account(population, random);
    if (*debit == *credit) *debit = *debit == 0 ? 1 : *debit - 1;
}

static inline void load_resolution(const transfer_t *hold, load_random_t *random,
                                   transfer_t *transfer) {
    const u64 choice = load_next(random);
    transfer->pending_id = hold->id;
    transfer->flags = choice % 4 == 0 ? TRANSFER_VOID_PENDING_TRANSFER
                                      : TRANSFER_POST_PENDING_TRANSFER;
    if (choice % 4 == 1) transfer->amount = U128_MAX;
    if (choice % 4 >= 2) transfer->amount = 1 + load_below(random, (u64)hold->amount);
}

/* Transfer `number` as it is sent; the hold it resolves goes to *hold, whose id is 0 if none. */
static inline void load_transfer_and_hold(const population_t *population, u64 number,
                                          transfer_t *transfer, transfer_t *hold) {
    load_random_t random = load_stream(population, number);
    const u64 draw = load_next(&random);
    u64 debit, credit;
    memset(transfer, 0, sizeof *transfer);
    hold->id = 0;
    transfer->id = load_transfer_id(population, number);
    transfer->user_data_128 = load_next(&random);
    transfer->user_data_64 = load_next(&random);
    transfer->user_data_32 = (u32)load_next(&random);
    if (population->resolved != 0 && number % 2 == 1 && draw < population->resolved) {
        transfer_t unused;
        load_transfer_and_hold(population, number - 1, hold, &unused);
        if (hold->flags & TRANSFER_PENDING) return load_resolution(hold, &random, transfer);
        hold->id = 0;
    }
    load_choose_accounts(population, &random, &debit, &credit);
    transfer->debit_account_id = load_account_id(population, debit);
    transfer->credit_account_id = load_account_id(population, credit);
    transfer->amount = 1 + load_below(&random, LOAD_AMOUNT_MAX);
    transfer->ledger = population->ledger;
    transfer->code = (u16)(1 + load_below(&random, LOAD_CODES));
    if (!load_is_hold(population, number, draw)) return;
    transfer->flags = TRANSFER_PENDING;
    transfer->timeout = population->timeout;
}

static inline void load_transfer(const population_t *population, u64 number,
                                 transfer_t *transfer) {
    transfer_t hold;
    load_transfer_and_hold(population, number, transfer, &hold);
}

/* Whether `stored` (any alignment) is what the ledger must keep of transfer `number`. */
static inline int load_transfer_matches(const population_t *population, u64 number,
                                        const u8 *stored) {
    transfer_t expected, hold, found;
    memcpy(&found, stored, sizeof found);
    load_transfer_and_hold(population, number, &expected, &hold);
    if (hold.id != 0) {
        const int whole = expected.flags & TRANSFER_VOID_PENDING_TRANSFER ||
                          expected.amount == U128_MAX;
        if (whole) expected.amount = hold.amount;
        expected.debit_account_id = hold.debit_account_id;
        expected.credit_account_id = hold.credit_account_id;
        expected.ledger = hold.ledger;
        expected.code = hold.code;
        if (expected.user_data_128 == 0) expected.user_data_128 = hold.user_data_128;
        if (expected.user_data_64 == 0) expected.user_data_64 = hold.user_data_64;
        if (expected.user_data_32 == 0) expected.user_data_32 = hold.user_data_32;
    }
    return memcmp(&expected, &found, LOAD_COMPARED_BYTES) == 0 && found.timestamp != 0;
}

/* Whether `stored` is account `index`, whatever its balances. */
static inline int load_account_matches(const population_t *population, u64 index,
                                       const account_t *stored) {
    return stored->id == load_account_id(population, index) && stored->user_data_64 == index &&
           stored->ledger == population->ledger && stored->code == LOAD_ACCOUNT_CODE &&
           stored->flags == population->account_flags && stored->timestamp != 0;
}

/* ---- judging what came back; results and records may lie at any address ------------------- */

enum { LOAD_STATUSES_MAX = 128 };

/* The bit of a number in a request that says: acknowledged before, sent once more on purpose. */
static const u64 LOAD_DUPLICATE = 1ull << 63;

typedef struct {
    u64 accounts_created, accounts_existed, accounts_refused;
    u64 sent, accepted, refused, unanswered;
    u64 duplicates_sent, duplicates;
    u64 requests, replies, resent, connections;
    u64 found, accounts_found;
    /* What must not happen. */
    u64 missing, different, accounts_missing, accounts_different, duplicate_faults, reply_faults;
} load_counts_t;

typedef struct {
    load_counts_t counts;
    u64 account_statuses[LOAD_STATUSES_MAX];
    u64 statuses[LOAD_STATUSES_MAX];
    u128 debits, credits; /* posted, of the accounts looked up */
} load_tally_t;

static inline int load_bit(const u8 *bits, u64 number) {
    return bits[number >> 3] >> (number & 7) & 1;
}

static inline u32 load_status_row(u32 status) {
    return status < LOAD_STATUSES_MAX ? status : LOAD_STATUSES_MAX - 1;
}

static inline void load_judge_accounts(load_tally_t *tally, u32 count, const u8 *results) {
    for (u32 event = 0; event < count; event++) {
        create_result_t result;
        memcpy(&result, results + event * sizeof result, sizeof result);
        if (result.status == STATUS_CREATED) {
            tally->counts.accounts_created++;
        } else if (result.status == ACCOUNT_EXISTS_STATUS) {
            tally->counts.accounts_existed++;
        } else {
            tally->counts.accounts_refused++;
            tally->account_statuses[load_status_row(result.status)]++;
        }
    }
}

/* Sets the bit of each number that was created. */
static inline void load_judge_transfers(load_tally_t *tally, const u64 *numbers, u32 count,
                                        const u8 *results, u8 *acknowledged) {
    for (u32 event = 0; event < count; event++) {
        const u64 number = numbers[event];
        create_result_t result;
        memcpy(&result, results + event * sizeof result, sizeof result);
        if (number & LOAD_DUPLICATE) {
            if (result.status == TRANSFER_EXISTS_STATUS)
                tally->counts.duplicates++;
            else
                tally->counts.duplicate_faults++;
        } else if (result.status == STATUS_CREATED) {
            tally->counts.accepted++;
            acknowledged[number >> 3] |= (u8)(1u << (number & 7));
        } else {
            tally->counts.refused++;
            tally->statuses[load_status_row(result.status)]++;
        }
    }
}

/* Look-ups: results come in the order asked, and what is not there is left out. */
static inline void load_judge_found_transfers(const population_t *population, load_tally_t *tally,
                                              const u64 *numbers, u32 count, const u8 *stored,
                                              u32 stored_count) {
    u32 found = 0;
    for (u32 event = 0; event < count; event++) {
        const u128 expected = load_transfer_id(population, numbers[event]);
        if (found == stored_count || memcmp(stored, &expected, sizeof expected) != 0) {
            tally->counts.missing++;
            continue;
        }
        if (load_transfer_matches(population, numbers[event], stored))
            tally->counts.found++;
        else
            tally->counts.different++;
        stored += sizeof(transfer_t);
        found++;
    }
    tally->counts.reply_faults += found != stored_count;
}

static inline void load_judge_found_accounts(const population_t *population, load_tally_t *tally,
                                             const u64 *numbers, u32 count, const u8 *stored,
                                             u32 stored_count) {
    u32 found = 0;
    for (u32 event = 0; event < count; event++) {
        const u128 expected = load_account_id(population, numbers[event]);
        account_t account;
        if (found == stored_count || memcmp(stored, &expected, sizeof expected) != 0) {
            tally->counts.accounts_missing++;
            continue;
        }
        memcpy(&account, stored, sizeof account);
        if (load_account_matches(population, numbers[event], &account))
            tally->counts.accounts_found++;
        else
            tally->counts.accounts_different++;
        tally->debits += account.debits_posted;
        tally->credits += account.credits_posted;
        stored += sizeof account;
        found++;
    }
    tally->counts.reply_faults += found != stored_count;
}

/* ---- latencies: buckets that grow with the value, none wider than 1/128 of it --------------- */

enum {
    HISTOGRAM_BITS = 7,
    HISTOGRAM_BUCKETS = (64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS,
};

static inline u32 histogram_bucket(u64 value) {
    if (value >> HISTOGRAM_BITS == 0) return (u32)value;
    const u32 shift = 63 - (u32)__builtin_clzll(value) - HISTOGRAM_BITS;
    return ((shift + 1) << HISTOGRAM_BITS) +
           ((u32)(value >> shift) & ((1u << HISTOGRAM_BITS) - 1));
}

/* The highest value of a bucket. */
static inline u64 histogram_value(u32 bucket) {
    if (bucket >> HISTOGRAM_BITS == 0) return bucket;
    const u32 shift = (bucket >> HISTOGRAM_BITS) - 1;
    const u64 low = (1ull << HISTOGRAM_BITS) + (bucket & ((1u << HISTOGRAM_BITS) - 1));
    return ((low + 1) << shift) - 1;
}

#endif
