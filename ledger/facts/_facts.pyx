"""The facts of the C headers for Python: records, names, result codes, operations and limits.

They are read from the lists of record.h, frame_fields.h and status.h, by way of fact_tables.h. This
file knows how the lists are laid out and nothing of what they mean.
"""

from ledger.facts.record cimport (
    BATCHES_MAX, EVENT_BYTES_WORST, EVENTS_MAX, MEMTABLES_MAX, MESSAGE_BODY_BYTES_MAX,
    MESSAGE_BYTES_MAX, MESSAGE_HEADER_BYTES, OPERATION_REGISTER, PLACE_OFFSET_MASK,
    REQUEST_BYTES_FIXED, u32,
)

cdef extern from "facts/fact_tables.h":
    u32 STATUS_CREATED
    ctypedef struct table_field_t:
        const char *name
        const char *kind
        u32 count, bytes
        const char *doc
    ctypedef struct table_record_t:
        const char *name
        const char *doc
        const table_field_t *fields
        u32 bytes
    ctypedef struct table_name_t:
        const char *name
        const char *doc
        u32 value
    ctypedef struct table_status_t:
        const char *name
        u32 value
        bint transient
    ctypedef struct table_operation_t:
        const char *name
        const char *event
        const char *result
        const char *doc
        u32 value
        bint single, creates
    const table_record_t *table_records
    const table_name_t *table_account_flags
    const table_name_t *table_transfer_flags
    const table_name_t *table_account_filter_flags
    const table_name_t *table_query_filter_flags
    const table_name_t *table_journal_kinds
    const table_name_t *table_hold_outcomes
    const table_name_t *table_verdicts
    const table_name_t *table_eviction_reasons
    const table_name_t *table_commands
    const table_name_t *table_wire_errors
    const table_status_t *table_account_statuses
    const table_status_t *table_transfer_statuses
    const table_operation_t *table_operations


cdef list fields_of(const table_field_t *field):
    cdef u32 offset = 0
    cdef list fields = []
    while field.name != NULL:
        fields.append((field.name.decode(), field.kind.decode(), field.count, offset,
                       field.count * field.bytes, field.doc.decode()))
        offset += field.count * field.bytes
        field += 1
    return fields


def layout() -> dict[str, tuple[int, list[tuple[str, str, int, int, int, str]], str]]:
    cdef const table_record_t *record = table_records
    cdef dict records = {}
    while record.name != NULL:
        records[record.name.decode()] = (
            record.bytes, fields_of(record.fields), record.doc.decode())
        record += 1
    return records


cdef list names_of(const table_name_t *row):
    cdef list rows = []
    while row.name != NULL:
        rows.append((row.name.decode(), row.value, row.doc.decode()))
        row += 1
    return rows


def names() -> dict[str, list[tuple[str, int, str]]]:
    return {
        "account_flags": names_of(table_account_flags),
        "transfer_flags": names_of(table_transfer_flags),
        "account_filter_flags": names_of(table_account_filter_flags),
        "query_filter_flags": names_of(table_query_filter_flags),
        "journal_kinds": names_of(table_journal_kinds),
        "hold_outcomes": names_of(table_hold_outcomes),
        "verdicts": names_of(table_verdicts),
        "eviction_reasons": names_of(table_eviction_reasons),
        "commands": names_of(table_commands),
        "wire_errors": names_of(table_wire_errors),
    }


cdef list statuses_of(const table_status_t *row):
    cdef list rows = []
    while row.name != NULL:
        rows.append((row.name.decode(), row.value, row.transient))
        row += 1
    return rows


def statuses() -> dict[str, list[tuple[str, int, bool]]]:
    return {
        "account_statuses": statuses_of(table_account_statuses),
        "transfer_statuses": statuses_of(table_transfer_statuses),
    }


def operations() -> list[tuple[str, int, str, str, bool, bool, str]]:
    cdef const table_operation_t *row = table_operations
    cdef list rows = []
    while row.name != NULL:
        rows.append((row.name.decode(), row.value, row.event.decode(), row.result.decode(),
                     row.single, row.creates, row.doc.decode()))
        row += 1
    return rows


def limits() -> dict[str, int]:
    return {
        "MESSAGE_BYTES_MAX": MESSAGE_BYTES_MAX,
        "MESSAGE_HEADER_BYTES": MESSAGE_HEADER_BYTES,
        "MESSAGE_BODY_BYTES_MAX": MESSAGE_BODY_BYTES_MAX,
        "EVENTS_MAX": EVENTS_MAX,
        "BATCHES_MAX": BATCHES_MAX,
        "MEMTABLES_MAX": MEMTABLES_MAX,
        "EVENT_BYTES_WORST": EVENT_BYTES_WORST,
        "REQUEST_BYTES_FIXED": REQUEST_BYTES_FIXED,
        "BODY_BYTES_END": 16 * (PLACE_OFFSET_MASK + 1),
        "OPERATION_REGISTER": OPERATION_REGISTER,
        "STATUS_CREATED": STATUS_CREATED,
    }
