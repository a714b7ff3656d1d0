"""The facts of the C headers for Python: each list of record.h, frame_fields.h and status.h."""

def layout() -> dict[str, tuple[int, list[tuple[str, str, int, int, int, str]], str]]:
    """Every record by name, as (bytes, fields, doc).

    A field is (name, kind, count, offset, bytes, doc): `kind` is u8, u16, u32, u64 or
    u128; `count` is above 1 for an array; `bytes` is all of it.
    """

def names() -> dict[str, list[tuple[str, int, str]]]:
    """Every list of flags or numbers by name, as (name, value, doc)."""

def statuses() -> dict[str, list[tuple[str, int, bool]]]:
    """The result codes in order of precedence, as (name, value, transient); without created."""

def operations() -> list[tuple[str, int, str, str, bool, bool, str]]:
    """(name, number, event record, result record, one filter a batch, creates, doc)."""

def limits() -> dict[str, int]:
    """The sizes and bounds of the headers that Python repeats or tests, by their C names."""
