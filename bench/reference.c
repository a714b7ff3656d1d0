/* The machine without a ledger: what the parts of the ledger are held against, in plain C.
 *
 * ref_apply() does what no book can leave out of a transfer: find out whether its id is new, find
 * both accounts, add the amount twice, keep the record. It has no rules, limits, holds, chains,
 * postings, journal or undo. ref_find() is the look-up alone, ref_mix() one pass of arithmetic over
 * bytes, ref_copy() one pass of memory. It shares the layout of the records with the ledger and
 * nothing else. Everything is allocated by ref_open(), for a number of transfers known before.
 */
#include <stdlib.h>
#include <string.h>

#include "facts/record.h"

enum { AHEAD_SLOT = 16, AHEAD_RECORD = 8, ACCOUNT_BYTES = 128 };

typedef struct {
    u64 ids_mask, accounts_mask, kept, kept_max;
    u64 *ids;      /* a fingerprint in the high half, a place + 1 in the low half */
    u32 *index;    /* of accounts: place + 1 */
    account_t *accounts;
    transfer_t *transfers;
} ref_t;

static inline u64 mix(u128 id) {
    u64 word = (u64)id * 0x9E3779B97F4A7C15u ^ (u64)(id >> 64) * 0xC2B2AE3D27D4EB4Fu;
    word ^= word >> 32;
    word *= 0xD6E8FEB86659FD93u;
    return word ^ word >> 29;
}

static u64 power_above(u64 count) {
    u64 power = 1024;
    while (power < count) power *= 2;
    return power;
}

/* Zeros whose pages are there, so that no page fault is measured. The compiler would make the zeros
 * of malloc() and memset() from calloc(), which touches nothing. */
static void *touched(u64 bytes) {
    volatile u8 *memory = calloc(1, bytes);
    for (u64 at = 0; memory && at < bytes; at += 4096) memory[at] = 0;
    return (void *)memory;
}

void ref_close(ref_t *ref) {
    if (!ref) return;
    free(ref->ids);
    free(ref->index);
    free(ref->accounts);
    free(ref->transfers);
    free(ref);
}

static inline account_t *find_account(const ref_t *ref, u128 id) {
    for (u64 at = mix(id);; at++) {
        u32 place = ref->index[at & ref->accounts_mask];
        if (!place) return NULL;
        if (ref->accounts[place - 1].id == id) return &ref->accounts[place - 1];
    }
}

/* Accounts 1 .. accounts, and room for transfers_max. NULL when there is no memory. */
ref_t *ref_open(u64 accounts, u64 transfers_max) {
    ref_t *ref = calloc(1, sizeof *ref);
    if (!ref) return NULL;
    u64 ids = power_above(transfers_max * 2), slots = power_above(accounts * 2);
    ref->ids_mask = ids - 1;
    ref->accounts_mask = slots - 1;
    ref->kept_max = transfers_max;
    ref->ids = touched(ids * sizeof *ref->ids);
    ref->index = touched(slots * sizeof *ref->index);
    ref->accounts = touched(accounts * sizeof *ref->accounts);
    ref->transfers = touched(transfers_max * sizeof *ref->transfers);
    if (!ref->ids || !ref->index || !ref->accounts || !ref->transfers) {
        ref_close(ref);
        return NULL;
    }
    for (u64 place = 0; place < accounts; place++) {
        u64 at = mix(place + 1);
        while (ref->index[at & ref->accounts_mask]) at++;
        ref->index[at & ref->accounts_mask] = (u32)place + 1;
        ref->accounts[place].id = place + 1;
    }
    return ref;
}

/* The slot of an id: its own, or the free one where it would be. */
static inline u64 id_slot(const ref_t *ref, u128 id, u64 hash) {
    for (u64 at = hash;; at++) {
        u64 slot = ref->ids[at & ref->ids_mask];
        if (!slot) return at & ref->ids_mask;
        if (slot >> 32 == hash >> 32 && ref->transfers[(u32)slot - 1].id == id)
            return at & ref->ids_mask;
    }
}

static inline void prefetch_account(const ref_t *ref, u128 id) {
    u32 place = ref->index[mix(id) & ref->accounts_mask];
    if (!place) return;
    __builtin_prefetch(&ref->accounts[place - 1]);
    __builtin_prefetch((u8 *)&ref->accounts[place - 1] + 64);
}

/* Apply `count` transfers; how many were new and had both accounts. */
u64 ref_apply(ref_t *ref, const transfer_t *events, u64 count) {
    u64 done = 0;
    for (u64 i = 0; i < count; i++) {
        if (i + AHEAD_SLOT < count) {
            const transfer_t *next = events + i + AHEAD_SLOT;
            __builtin_prefetch(&ref->ids[mix(next->id) & ref->ids_mask]);
            __builtin_prefetch(&ref->index[mix(next->debit_account_id) & ref->accounts_mask]);
            __builtin_prefetch(&ref->index[mix(next->credit_account_id) & ref->accounts_mask]);
        }
        if (i + AHEAD_RECORD < count) {
            prefetch_account(ref, events[i + AHEAD_RECORD].debit_account_id);
            prefetch_account(ref, events[i + AHEAD_RECORD].credit_account_id);
        }
        const transfer_t *event = events + i;
        u64 hash = mix(event->id);
        u64 slot = id_slot(ref, event->id, hash);
        if (ref->ids[slot] || ref->kept == ref->kept_max) continue;
        account_t *debit = find_account(ref, event->debit_account_id);
        account_t *credit = find_account(ref, event->credit_account_id);
        if (!debit || !credit) continue;
        debit->debits_posted += event->amount;
        credit->credits_posted += event->amount;
        ref->transfers[ref->kept++] = *event;
        ref->ids[slot] = hash >> 32 << 32 | ref->kept;
        done++;
    }
    return done;
}

/* Copy the transfers of `count` ids to `found`; how many there are. */
u64 ref_find(const ref_t *ref, const u128 *ids, u64 count, transfer_t *found) {
    u64 done = 0;
    for (u64 i = 0; i < count; i++) {
        if (i + AHEAD_SLOT < count)
            __builtin_prefetch(&ref->ids[mix(ids[i + AHEAD_SLOT]) & ref->ids_mask]);
        if (i + AHEAD_RECORD < count) {
            u64 slot = ref->ids[mix(ids[i + AHEAD_RECORD]) & ref->ids_mask];
            if (slot) __builtin_prefetch(&ref->transfers[(u32)slot - 1]);
        }
        u64 slot = ref->ids[id_slot(ref, ids[i], mix(ids[i]))];
        if (slot) found[done++] = ref->transfers[(u32)slot - 1];
    }
    return done;
}

/* One pass of dependent multiplications, eight bytes each, four side by side. */
u64 ref_mix(const u8 *bytes, u64 count) {
    u64 lanes[4] = {1, 2, 3, 4};
    for (u64 at = 0; at + 32 <= count; at += 32) {
        for (int lane = 0; lane < 4; lane++) {
            u64 word;
            memcpy(&word, bytes + at + 8 * lane, 8);
            lanes[lane] = (lanes[lane] ^ word) * 0x9E3779B97F4A7C15u;
        }
    }
    return lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3];
}

void ref_copy(u8 *to, const u8 *from, u64 count) { memcpy(to, from, count); }
