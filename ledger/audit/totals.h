/* What an audit remembers of a book, and its arithmetic; written apart from the core's.
 *
 * Exact sums, the accounts with their balances, the open holds, what each ledger held, one bit for
 * each hold that has ended, and eight bytes for each transfer id: whatever else is past is
 * forgotten. An id's hash goes to one of 1,024 heaps, which are small enough at the end to be
 * searched for repetitions one by one; that two ids share a hash says no more than that somebody
 * must look at the ids. Nothing here judges a record. Every function that takes memory returns -1
 * when there is none; the audit ends then.
 */
#ifndef LEDGER_AUDIT_H
#define LEDGER_AUDIT_H

#include <string.h>

#include "facts/record.h"

enum {
    AUDIT_LINE_BYTES = 64,
    AUDIT_ROOM_FIRST = 1024,  /* of arrays and indexes; a power of two */
    AUDIT_PAGE_BYTES = 4096,
    AUDIT_PAGE_BITS = 8 * AUDIT_PAGE_BYTES,
    AUDIT_HEAPS_BITS = 10,
    AUDIT_HEAPS = 1 << AUDIT_HEAPS_BITS,
    AUDIT_AREA_PAGES = 256, /* pages of hashes that are allocated together */
    AUDIT_LIMITS = ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS | ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS,
};
#define AUDIT_NONE 0xFFFFFFFFu

/* The order of an account's balances in its record; pending and posted stand side by side. */
enum { DEBITS_PENDING, DEBITS_POSTED, CREDITS_PENDING, CREDITS_POSTED, BALANCES };

/* An account record whose reserved field counts the open holds that close it, and whose balances
 * are the low 128 bits of what was added up; the rest is a carry, which may be negative. */
typedef struct {
    u128 id;
    u128 balances[BALANCES];
    u128 user_data_128;
    u64 user_data_64;
    u32 user_data_32, closings, ledger;
    u16 code, flags;
    u64 timestamp;
} audit_account_t;
_Static_assert(sizeof(audit_account_t) == sizeof(account_t), "an account in its record's place");
_Static_assert(offsetof(audit_account_t, balances) == offsetof(account_t, debits_pending) &&
                   offsetof(audit_account_t, user_data_128) == offsetof(account_t, user_data_128) &&
                   offsetof(audit_account_t, closings) == offsetof(account_t, reserved) &&
                   offsetof(audit_account_t, timestamp) == offsetof(account_t, timestamp),
               "the fields of an account lie where its record has them");

typedef struct {
    int32_t balances[BALANCES];
} audit_carry_t;

/* An open hold; one that has ended has position 0 and leads to the next free place. */
typedef struct {
    u128 id, amount;
    u64 position, expires_at; /* 0 for never */
    u32 debit, credit;        /* places of the accounts */
    u16 flags, code;
    u32 free_next;
} audit_hold_t;
_Static_assert(sizeof(audit_hold_t) == AUDIT_LINE_BYTES, "a hold is a line");

typedef struct {
    u128 low;
    int64_t high;
} audit_sum_t;

/* The balances of a ledger's accounts, then what became of its holds. */
enum { HELD = BALANCES, CAPTURED, RELEASED, OPEN, AUDIT_SUMS };

typedef struct {
    audit_sum_t sums[AUDIT_SUMS];
    u64 accounts;
    u32 ledger;
} audit_ledger_t;

/* Open addressing from a 32-bit tag to a place in an array, at most half full. */
typedef struct {
    u64 *slots; /* tag in the low half, place + 1 in the high half; 0 is empty */
    u64 room, count;
} audit_index_t;

typedef struct {
    u64 *next; /* where the next hash goes; at the end of a page when that is full, or NULL */
    u64 count;
} audit_heap_t;

typedef struct {
    u64 key[2];
    audit_account_t *accounts;
    audit_carry_t *carries; /* one for each account */
    audit_hold_t *holds;
    audit_ledger_t *ledgers;
    u64 account_count, account_room, carry_room;
    u64 hold_count, hold_room; /* places, the free ones included */
    u64 ledger_count, ledger_room;
    audit_index_t account_index, hold_index, ledger_index;
    u32 hold_free;
    u64 **ended; /* pages of bits by position; NULL where no hold has ended */
    u64 ended_room;
    audit_heap_t heaps[AUDIT_HEAPS];
    u8 **areas;
    u64 area_count, area_room, page_count;
    u64 *repeated; /* hashes that were seen again */
    u64 repeated_count, repeated_room;
} audit_t;

/* ---- facts ----------------------------------------------------------------------------------- */

static inline int audit_is_zero(const void *bytes, size_t count) {
    u8 any = 0;
    for (size_t i = 0; i < count; i++) any |= ((const u8 *)bytes)[i];
    return any == 0;
}

#define AUDIT_RESERVED_IS_ZERO(type) \
    audit_is_zero(&((const type *)record)->reserved, sizeof((const type *)record)->reserved)

static inline int audit_reserved_is_zero(u16 kind, const void *record) {
    switch (kind) {
    case KIND_START: return AUDIT_RESERVED_IS_ZERO(start_t);
    case KIND_SESSION: return AUDIT_RESERVED_IS_ZERO(session_record_t);
    case KIND_REQUEST: return AUDIT_RESERVED_IS_ZERO(request_t);
    case KIND_ACCOUNT: return AUDIT_RESERVED_IS_ZERO(account_t);
    case KIND_RESOLUTION: return AUDIT_RESERVED_IS_ZERO(resolution_t);
    case KIND_BURNED_ID: return AUDIT_RESERVED_IS_ZERO(burned_id_t);
    default: return 1;
    }
}

/* ---- arrays and indexes ---------------------------------------------------------------------- */

/* `array` with room for one more than `count` records: itself, or a copy twice as long; NULL. */
static inline void *audit_grown(void *array, u64 *room, u64 count, size_t record_bytes) {
    if (__builtin_expect(count < *room, 1)) return array;
    u64 more = *room ? 2 * *room : AUDIT_ROOM_FIRST;
    void *grown = aligned_alloc(AUDIT_LINE_BYTES, more * record_bytes);
    if (!grown) return NULL;
    if (count) memcpy(grown, array, count * record_bytes);
    free(array);
    *room = more;
    return grown;
}

static inline u64 audit_fold(u64 a, u64 b) {
    u128 product = (u128)a * b;
    return (u64)product ^ (u64)(product >> 64);
}

/* Keyed, so that nobody who chooses ids can choose which of them meet; the constants keep a weak
 * key from making a weak hash. Never 0. */
static inline u64 audit_hash(const u64 key[2], u128 id) {
    u64 mixed = audit_fold((u64)id ^ key[0] ^ 0xA0761D6478BD642Full,
                           (u64)(id >> 64) ^ key[1] ^ 0xE7037ED1A0B428DBull);
    u64 hash = audit_fold(mixed ^ 0x8EBC6AF09C88C6E3ull, 0x589965CC75374CC3ull);
    return hash ? hash : 1;
}

static inline u32 audit_tag(const u64 key[2], u128 id) { return (u32)(audit_hash(key, id) >> 32); }

static inline u32 audit_tag_of_number(u64 number) {
    return (u32)(number * 0x9E3779B97F4A7C15ull >> 32);
}

static inline void audit_index_place(u64 *slots, u64 room, u64 slot) {
    u64 at = (u32)slot & (room - 1);
    while (slots[at]) at = (at + 1) & (room - 1);
    slots[at] = slot;
}

/* Make room for one more. */
static inline int audit_index_reserve(audit_index_t *index) {
    if (__builtin_expect(2 * (index->count + 1) <= index->room, 1)) return 0;
    u64 room = index->room ? 2 * index->room : AUDIT_ROOM_FIRST;
    u64 *slots = calloc(room, sizeof *slots);
    if (!slots) return -1;
    for (u64 i = 0; i < index->room; i++) {
        if (index->slots[i]) audit_index_place(slots, room, index->slots[i]);
    }
    free(index->slots);
    index->slots = slots;
    index->room = room;
    return 0;
}

static inline void audit_index_add(audit_index_t *index, u32 tag, u32 place) {
    invariant(2 * (index->count + 1) <= index->room);
    audit_index_place(index->slots, index->room, (u64)tag | ((u64)place + 1) << 32);
    index->count++;
}

/* Walk the places under a tag: `at` begins as the tag. AUDIT_NONE ends the walk. */
static inline u32 audit_index_next(const audit_index_t *index, u32 tag, u64 *at) {
    for (;;) {
        u64 slot = index->slots[(*at)++ & (index->room - 1)];
        if (!slot) return AUDIT_NONE;
        if ((u32)slot == tag) return (u32)(slot >> 32) - 1;
    }
}

/* What probed past the freed slot moves up, so that no walk ends too early. */
static inline void audit_index_remove(audit_index_t *index, u32 tag, u32 place) {
    u64 mask = index->room - 1, wanted = (u64)tag | ((u64)place + 1) << 32;
    u64 hole = tag & mask;
    while (index->slots[hole] != wanted) {
        invariant(index->slots[hole]);
        hole = (hole + 1) & mask;
    }
    for (u64 at = (hole + 1) & mask; index->slots[at]; at = (at + 1) & mask) {
        u64 home = (u32)index->slots[at] & mask;
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            index->slots[hole] = index->slots[at];
            hole = at;
        }
    }
    index->slots[hole] = 0;
    index->count--;
}

/* ---- accounts -------------------------------------------------------------------------------- */

static inline u32 audit_find_account(const audit_t *a, u128 id, u32 tag) {
    u64 at = tag;
    for (;;) {
        u32 place = audit_index_next(&a->account_index, tag, &at);
        if (place == AUDIT_NONE || a->accounts[place].id == id) return place;
    }
}

static inline void audit_fetch_slot(const audit_t *a, u32 tag) {
    __builtin_prefetch(&a->account_index.slots[tag & (a->account_index.room - 1)]);
}

static inline void audit_fetch_account(const audit_t *a, u32 tag) {
    u64 at = tag;
    u32 place = audit_index_next(&a->account_index, tag, &at);
    if (place == AUDIT_NONE) return;
    __builtin_prefetch(&a->accounts[place].id, 1);
    __builtin_prefetch(&a->accounts[place].user_data_64, 1);
}

/* The place of a ledger's sums, made when it is new; AUDIT_NONE when there is no memory. */
static inline u32 audit_ledger(audit_t *a, u32 ledger) {
    u32 tag = audit_tag_of_number(ledger), place;
    u64 at = tag;
    while ((place = audit_index_next(&a->ledger_index, tag, &at)) != AUDIT_NONE) {
        if (a->ledgers[place].ledger == ledger) return place;
    }
    audit_ledger_t *ledgers =
        audit_grown(a->ledgers, &a->ledger_room, a->ledger_count, sizeof *ledgers);
    if (!ledgers) return AUDIT_NONE;
    a->ledgers = ledgers;
    if (audit_index_reserve(&a->ledger_index)) return AUDIT_NONE;
    place = (u32)a->ledger_count++;
    memset(&ledgers[place], 0, sizeof *ledgers);
    ledgers[place].ledger = ledger;
    audit_index_add(&a->ledger_index, tag, place);
    return place;
}

/* Remember an account; its reserved field and its balances must be 0. */
static inline int audit_add_account(audit_t *a, const account_t *account, u32 tag) {
    void *grown = audit_grown(a->accounts, &a->account_room, a->account_count, sizeof *account);
    if (!grown) return -1;
    a->accounts = grown;
    grown = audit_grown(a->carries, &a->carry_room, a->account_count, sizeof *a->carries);
    if (!grown) return -1;
    a->carries = grown;
    u32 ledger = audit_ledger(a, account->ledger);
    if (ledger == AUDIT_NONE || audit_index_reserve(&a->account_index)) return -1;
    invariant(a->account_count < AUDIT_NONE);
    a->ledgers[ledger].accounts++;
    memcpy(&a->accounts[a->account_count], account, sizeof *account);
    memset(&a->carries[a->account_count], 0, sizeof *a->carries);
    audit_index_add(&a->account_index, tag, (u32)a->account_count++);
    return 0;
}

static inline void audit_raise(audit_t *a, u32 place, u32 balance, u128 amount) {
    u128 *low = &a->accounts[place].balances[balance];
    *low += amount;
    if (__builtin_expect(*low < amount, 0)) a->carries[place].balances[balance]++;
}

static inline void audit_lower(audit_t *a, u32 place, u32 balance, u128 amount) {
    u128 *low = &a->accounts[place].balances[balance];
    if (__builtin_expect(*low < amount, 0)) a->carries[place].balances[balance]--;
    *low -= amount;
}

/* Whether one side of an account, holds included, is within what the other side has posted. */
static inline int audit_within(const audit_t *a, u32 place, u32 pending, u32 other_posted) {
    const u128 *balances = a->accounts[place].balances;
    const int32_t *carries = a->carries[place].balances;
    u128 used = balances[pending] + balances[pending + 1];
    int64_t high = (int64_t)carries[pending] + carries[pending + 1] + (used < balances[pending]);
    if (high != carries[other_posted]) return high < carries[other_posted];
    return used <= balances[other_posted];
}

static inline int audit_keeps_limits(const audit_t *a, u32 place) {
    u16 flags = a->accounts[place].flags;
    if (flags & ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS &&
        !audit_within(a, place, DEBITS_PENDING, CREDITS_POSTED)) {
        return 0;
    }
    return !(flags & ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS) ||
           audit_within(a, place, CREDITS_PENDING, DEBITS_POSTED);
}

static inline int audit_is_closed(const audit_t *a, u32 place) {
    return a->accounts[place].closings || a->accounts[place].flags & ACCOUNT_CLOSED;
}

/* Every account record as it must stand, in order of creation. */
static inline void audit_accounts(const audit_t *a, account_t *accounts) {
    for (u64 i = 0; i < a->account_count; i++) {
        memcpy(&accounts[i], &a->accounts[i], sizeof *accounts);
        accounts[i].reserved = 0;
        if (a->accounts[i].closings) accounts[i].flags |= ACCOUNT_CLOSED;
    }
}

/* ---- sums ------------------------------------------------------------------------------------ */

static inline void audit_sum(audit_sum_t *sum, u128 amount, int64_t high) {
    sum->low += amount;
    sum->high += high + (sum->low < amount);
}

static inline void audit_sum_of_ledger(audit_t *a, u32 ledger, u32 which, u128 amount) {
    u32 place = audit_ledger(a, ledger);
    invariant(place != AUDIT_NONE); /* its accounts have made it */
    audit_sum(&a->ledgers[place].sums[which], amount, 0);
}

/* Add up what is not kept while records come: each ledger's balances and open holds. */
static inline void audit_sum_up(audit_t *a) {
    for (u64 i = 0; i < a->ledger_count; i++) {
        memset(a->ledgers[i].sums, 0, BALANCES * sizeof(audit_sum_t));
        memset(&a->ledgers[i].sums[OPEN], 0, sizeof(audit_sum_t));
    }
    for (u64 i = 0; i < a->account_count; i++) {
        audit_sum_t *sums = a->ledgers[audit_ledger(a, a->accounts[i].ledger)].sums;
        for (u32 k = 0; k < BALANCES; k++) {
            audit_sum(&sums[k], a->accounts[i].balances[k], a->carries[i].balances[k]);
        }
    }
    for (u64 i = 0; i < a->hold_count; i++) {
        if (!a->holds[i].position) continue;
        audit_sum_of_ledger(a, a->accounts[a->holds[i].debit].ledger, OPEN, a->holds[i].amount);
    }
}

/* ---- holds ----------------------------------------------------------------------------------- */

static inline u32 audit_find_hold(const audit_t *a, u64 position) {
    u32 tag = audit_tag_of_number(position);
    u64 at = tag;
    for (;;) {
        u32 place = audit_index_next(&a->hold_index, tag, &at);
        if (place == AUDIT_NONE || a->holds[place].position == position) return place;
    }
}

static inline int audit_add_hold(audit_t *a, const audit_hold_t *hold) {
    if (audit_index_reserve(&a->hold_index)) return -1;
    u32 place = a->hold_free;
    if (place != AUDIT_NONE) {
        a->hold_free = a->holds[place].free_next;
    } else {
        void *grown = audit_grown(a->holds, &a->hold_room, a->hold_count, sizeof *hold);
        if (!grown) return -1;
        a->holds = grown;
        invariant(a->hold_count < AUDIT_NONE);
        place = (u32)a->hold_count++;
    }
    a->holds[place] = *hold;
    audit_index_add(&a->hold_index, audit_tag_of_number(hold->position), place);
    return 0;
}

/* Forget an open hold but for the bit that says that it has ended. */
static inline int audit_end_hold(audit_t *a, u32 place) {
    u64 position = a->holds[place].position, page = position / AUDIT_PAGE_BITS;
    while (page >= a->ended_room) {
        u64 room = a->ended_room;
        void *grown = audit_grown(a->ended, &a->ended_room, room, sizeof *a->ended);
        if (!grown) return -1;
        a->ended = grown;
        memset(a->ended + room, 0, (a->ended_room - room) * sizeof *a->ended);
    }
    if (!a->ended[page] && !(a->ended[page] = calloc(1, AUDIT_PAGE_BYTES))) return -1;
    u64 bit = position % AUDIT_PAGE_BITS;
    a->ended[page][bit / 64] |= (u64)1 << bit % 64;
    audit_index_remove(&a->hold_index, audit_tag_of_number(position), place);
    a->holds[place].position = 0;
    a->holds[place].free_next = a->hold_free;
    a->hold_free = place;
    return 0;
}

static inline int audit_has_ended(const audit_t *a, u64 position) {
    u64 page = position / AUDIT_PAGE_BITS, bit = position % AUDIT_PAGE_BITS;
    return page < a->ended_room && a->ended[page] && a->ended[page][bit / 64] >> bit % 64 & 1;
}

/* How many holds are open; position and expiry of each to `holds` unless that is NULL. */
static inline u64 audit_open_holds(const audit_t *a, u64 *holds) {
    u64 count = 0;
    for (u64 i = 0; i < a->hold_count; i++) {
        if (!a->holds[i].position) continue;
        if (holds) {
            holds[2 * count] = a->holds[i].position;
            holds[2 * count + 1] = a->holds[i].expires_at;
        }
        count++;
    }
    return count;
}

/* ---- transfer ids ---------------------------------------------------------------------------- */

/* Give a heap its next page, whose first eight bytes lead to the end of the page before. */
static __attribute__((noinline, cold)) int audit_heap_grow(audit_t *a, audit_heap_t *heap) {
    u64 within = a->page_count % AUDIT_AREA_PAGES;
    if (within == 0) {
        void *grown = audit_grown(a->areas, &a->area_room, a->area_count, sizeof *a->areas);
        if (!grown) return -1;
        a->areas = grown;
        u8 *area = aligned_alloc(AUDIT_PAGE_BYTES, (size_t)AUDIT_AREA_PAGES * AUDIT_PAGE_BYTES);
        if (!area) return -1;
        a->areas[a->area_count++] = area;
    }
    u64 *page = (u64 *)(a->areas[a->area_count - 1] + within * AUDIT_PAGE_BYTES);
    page[0] = (uintptr_t)heap->next;
    heap->next = page + 1;
    a->page_count++;
    return 0;
}

static inline int audit_add_id(audit_t *a, u128 id) {
    u64 hash = audit_hash(a->key, id);
    audit_heap_t *heap = &a->heaps[hash >> (64 - AUDIT_HEAPS_BITS)];
    if (__builtin_expect((uintptr_t)heap->next % AUDIT_PAGE_BYTES == 0, 0)) {
        if (audit_heap_grow(a, heap)) return -1;
    }
    *heap->next++ = hash;
    heap->count++;
    return 0;
}

/* Put a heap's hashes into `slots`, `room` of them and all 0, and keep those that come again. */
static inline int audit_search_heap(audit_t *a, const audit_heap_t *heap, u64 *slots, u64 room) {
    const u64 *end = heap->next;
    while (end) {
        const u64 *page = (const u64 *)(((uintptr_t)end - 1) / AUDIT_PAGE_BYTES * AUDIT_PAGE_BYTES);
        for (const u64 *hash = page + 1; hash < end; hash++) {
            u64 at = *hash & (room - 1);
            while (slots[at] && slots[at] != *hash) at = (at + 1) & (room - 1);
            if (slots[at]) {
                void *grown = audit_grown(a->repeated, &a->repeated_room, a->repeated_count,
                                          sizeof *a->repeated);
                if (!grown) return -1;
                a->repeated = grown;
                a->repeated[a->repeated_count++] = *hash;
            }
            slots[at] = *hash;
        }
        end = (const u64 *)(uintptr_t)page[0];
    }
    return 0;
}

/* Fill `repeated` with each hash once for each time that it came again. */
static inline int audit_search(audit_t *a) {
    u64 most = 0, room = AUDIT_ROOM_FIRST;
    for (u32 i = 0; i < AUDIT_HEAPS; i++) {
        if (a->heaps[i].count > most) most = a->heaps[i].count;
    }
    while (room < 2 * most) room *= 2;
    u64 *slots = malloc(room * sizeof *slots);
    int failed = slots ? 0 : -1;
    a->repeated_count = 0;
    for (u32 i = 0; i < AUDIT_HEAPS && !failed; i++) {
        memset(slots, 0, room * sizeof *slots);
        failed = audit_search_heap(a, &a->heaps[i], slots, room);
    }
    free(slots);
    return failed;
}

/* The hash of each of `count` ids, which may lie at any address. */
static inline void audit_hashes(const audit_t *a, const void *ids, u64 count, u64 *hashes) {
    for (u64 i = 0; i < count; i++) {
        u128 id;
        memcpy(&id, (const u8 *)ids + i * sizeof id, sizeof id);
        hashes[i] = audit_hash(a->key, id);
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static inline int audit_init(audit_t *a, const u64 key[2]) {
    memset(a, 0, sizeof *a);
    a->key[0] = key[0];
    a->key[1] = key[1];
    a->hold_free = AUDIT_NONE;
    return audit_index_reserve(&a->account_index) || audit_index_reserve(&a->hold_index) ||
                   audit_index_reserve(&a->ledger_index)
               ? -1
               : 0;
}

static inline void audit_free(audit_t *a) {
    for (u64 i = 0; i < a->ended_room; i++) free(a->ended[i]);
    for (u64 i = 0; i < a->area_count; i++) free(a->areas[i]);
    free(a->accounts);
    free(a->carries);
    free(a->holds);
    free(a->ledgers);
    free(a->account_index.slots);
    free(a->hold_index.slots);
    free(a->ledger_index.slots);
    free(a->ended);
    free(a->areas);
    free(a->repeated);
}

#endif
