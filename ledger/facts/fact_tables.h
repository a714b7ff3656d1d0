/* Fact tables: the lists of record.h, status.h and frame_fields.h as arrays, for run time.
 *
 * Each list ends with a row without a name. Offsets are not stored: the records have no padding, so
 * a field begins where the one before it ends. Nothing is typed here that a list says.
 */
#ifndef LEDGER_FACT_TABLES_H
#define LEDGER_FACT_TABLES_H

#include "facts/frame_fields.h"
#include "facts/record.h"
#include "facts/status.h"

typedef struct {
    const char *name, *kind;
    u32 count; /* of an array; 1 for a single value */
    u32 bytes; /* of one value */
    const char *doc;
} table_field_t;

typedef struct {
    const char *name, *doc;
    const table_field_t *fields;
    u32 bytes;
} table_record_t;

typedef struct {
    const char *name, *doc;
    u32 value;
} table_name_t;

typedef struct {
    const char *name;
    u32 value;
    int transient;
} table_status_t;

typedef struct {
    const char *name, *event, *result, *doc;
    u32 value;
    int single, creates;
} table_operation_t;

#define AS_FIELD_ROW(type, name, doc) {#name, #type, 1, sizeof(type), doc},
#define AS_ARRAY_ROW(type, name, count, doc) {#name, #type, (count), sizeof(type), doc},
#define AS_FIELDS(name, ctype, LIST, bytes, doc) \
    static const table_field_t table_##name[] = {LIST(AS_FIELD_ROW, AS_ARRAY_ROW){0}};
RECORDS(AS_FIELDS)
FRAMES(AS_FIELDS)

#define AS_RECORD_ROW(name, ctype, LIST, bytes, doc) {#name, doc, table_##name, (bytes)},
static const table_record_t table_records[] = {RECORDS(AS_RECORD_ROW) FRAMES(AS_RECORD_ROW){0}};

#define AS_NAME_ROW(name, value, doc) {#name, doc, (value)},
static const table_name_t table_account_flags[] = {ACCOUNT_FLAGS(AS_NAME_ROW){0}};
static const table_name_t table_transfer_flags[] = {TRANSFER_FLAGS(AS_NAME_ROW){0}};
static const table_name_t table_account_filter_flags[] = {ACCOUNT_FILTER_FLAGS(AS_NAME_ROW){0}};
static const table_name_t table_query_filter_flags[] = {QUERY_FILTER_FLAGS(AS_NAME_ROW){0}};
static const table_name_t table_journal_kinds[] = {JOURNAL_KINDS(AS_NAME_ROW){0}};
static const table_name_t table_hold_outcomes[] = {HOLD_OUTCOMES(AS_NAME_ROW){0}};
static const table_name_t table_verdicts[] = {VERDICTS(AS_NAME_ROW){0}};
static const table_name_t table_eviction_reasons[] = {EVICTION_REASONS(AS_NAME_ROW){0}};
static const table_name_t table_commands[] = {FRAME_COMMANDS(AS_NAME_ROW){0}};
static const table_name_t table_wire_errors[] = {FRAME_ERRORS(AS_NAME_ROW){0}};

#define AS_STATUS_ROW(name, value, transient) {#name, (value), (transient)},
static const table_status_t table_account_statuses[] = {ACCOUNT_STATUSES(AS_STATUS_ROW){0}};
static const table_status_t table_transfer_statuses[] = {TRANSFER_STATUSES(AS_STATUS_ROW){0}};

#define AS_OPERATION_ROW(name, number, event, result, single, creates, doc) \
    {#name, #event, #result, doc, (number), (single), (creates)},
static const table_operation_t table_operations[] = {OPERATIONS(AS_OPERATION_ROW){0}};

#endif
