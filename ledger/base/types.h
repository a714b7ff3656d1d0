/* The integers of the ledger, and what must hold while it runs.
 *
 * Here live the short names of integers of known width, `invariant`, which stops a process that is
 * wrong before it can write, and `verify`, which only the verify build checks. This file knows no
 * word of the ledger.
 */
#ifndef LEDGER_TYPES_H
#define LEDGER_TYPES_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the records are little-endian in memory and on disk"
#endif

typedef unsigned __int128 u128;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

/* A broken invariant must stop the process before it reaches the journal: Python's assert cannot
 * do that inside a function that may not raise. */
#define invariant(condition)                                                                  \
    do {                                                                                      \
        if (__builtin_expect(!(condition), 0)) {                                              \
            fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

/* The same in the verify build (see setup.py), which may be slow; the normal build compiles it and
 * leaves it out. What takes more than an expression stands behind `if VERIFIES`. */
#ifdef LEDGER_VERIFY
enum { VERIFIES = 1 };
#define verify(condition) invariant(condition)
#else
enum { VERIFIES = 0 };
#define verify(condition) ((void)sizeof(!(condition)))
#endif

#define U128_MAX (~(u128)0)

#endif
