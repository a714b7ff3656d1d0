"""Writes docs/reference/data-model.md from the tables of the compiled modules and from config.py.

Run `python tools/docs.py` after a change of a fact; `--check` only says whether the page is fresh.
Names, numbers and their one-line meanings come from the tables; here are the order of the page and
the sentences between. It knows how the tables are laid out and nothing of what becomes of a record.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "data-model.md"

OPENING = """\
# Data model

Every record, code, flag and limit of the ledger. This page is written by `tools/docs.py` from the
lists in `ledger/record.h`, `status.h`, `frame.h` and `config.py`: change them, not the page.

Numbers are unsigned and little-endian, and records have no padding. Times are nanoseconds since
1970 by the ledger's clock, amounts are in the smallest unit of their ledger. Fields named
`reserved` or `padding` must be zero.
"""

CLIENT = "What a client sends and receives"
CLIENT_PROSE = """\
The layouts and numbers are those of the protocol that `tigerbeetle` clients of release 0.17 speak.
Where ids are asked for, an event is 16 bytes: one u128.

A post with `amount` 0 moves nothing and releases the whole hold, since release 0.16 of the
protocol; 2^128-1 moves all of it. A void with `amount` 0 releases all of it. An expiry is no
transfer: it has no row in the history of balances, and the next row shows what it changed. In a
filter a timestamp of 0 is open, so a reversed page that ends at timestamp 1 is the last one.
"""

OPERATIONS_PROSE = """\
A request holds events of one operation, alone or as several batches. A query takes one filter a
batch. Only operations that create are written to the journal.
"""

STATUSES_PROSE = """\
An event has one result. When it breaks several rules, the first in the list is its answer. A
**transient** failure uses up the transfer's id: from then on it answers `id_already_failed`,
whatever has changed, so that a retry cannot succeed behind the back of whoever saw the failure.
"""

JOURNAL_PROSE = """\
A group is one durable append: a header, runs of records, and 8 bytes of check for each 4 KiB. A run
is a header of its own and then records of one kind. Every record takes one position, the book's
only counter. Accounts and transfers are the records above, as created.
"""

FRAMES_PROSE = """\
Every message is a header of 256 bytes and a body. The header's first half is the same for all, the
second depends on the command. A frame that fails a check ends its connection, and nothing of it is
used.
"""

MEMORY_PROSE = """\
What doors and core hand each other inside a process. It is never stored or sent, and may change
with any release.
"""

LIMITS_PROSE = """\
The unit is part of the name. Every queue, buffer and wait has a bound.
"""

# The journal's records by kind, less those that clients know.
JOURNAL = (
    "group_header", "run", "start", "session", "session_evicted", "request", "batch", "resolution",
    "burned_id", "outcome",
)  # fmt: skip
RECORDS = (
    "account", "transfer", "create_result", "account_filter", "query_filter", "account_balance",
)  # fmt: skip
MEMORY = ("arrival", "answer", "reply")


def table(heads: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; a head that ends with ":" aligns its column to the right."""
    names = heads.split("|")
    text = "| " + " | ".join(name.rstrip(":") for name in names) + " |\n"
    text += "|" + "|".join("---:" if name.endswith(":") else "---" for name in names) + "|\n"
    for row in rows:
        text += "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n"
    return text


def record(name: str) -> str:
    """One record: its size, what it is, and each field."""
    from ledger import _wire

    size, fields, doc = _wire.layout()[name]
    rows = [
        (offset, width, f"{kind}[{count}]" if count > 1 else kind, f"`{field}`", meaning)
        for field, kind, count, offset, width, meaning in fields
    ]
    head = f"\n### {name}\n\n{doc[0].upper()}{doc[1:]}; {size} bytes.\n\n"
    return head + table("offset:|bytes:|type|field|meaning", rows)


def flags(title: str, name: str) -> str:
    """A list of names with numbers."""
    from ledger import _wire

    rows = [(value, f"`{member.lower()}`", doc) for member, value, doc in _wire.names()[name]]
    return f"\n### {title}\n\n" + table("number:|name|meaning", rows)


def operations() -> str:
    """What can be asked, with the records of question and answer."""
    from ledger import _wire

    rows = [
        (number, f"`{name.lower()}`", event, "one" if single else "many", result, doc)
        for name, number, event, result, single, _, doc in _wire.operations()
    ]
    register = _wire.limits()["OPERATION_REGISTER"]
    rows.insert(0, (register, "`register`", "none", "none", "session number", "open a session"))
    heads = "number:|name|event|events a batch|result|meaning"
    return f"\n## Operations\n\n{OPERATIONS_PROSE}\n" + table(heads, rows)


def statuses() -> str:
    """The result codes in order of precedence."""
    from ledger import _wire

    created = _wire.limits()["STATUS_CREATED"]
    text = f"\n## Result codes\n\n{STATUSES_PROSE}\n`created` is {created:,}.\n"
    for title, name in (("accounts", "account_statuses"), ("transfers", "transfer_statuses")):
        rows = [
            (place, value, f"`{status.lower()}`", "transient" if transient else "")
            for place, (status, value, transient) in enumerate(_wire.statuses()[name], 1)
        ]
        text += f"\n### Of {title}\n\n" + table("precedence:|number:|name|mark", rows)
    return text


def kinds() -> str:
    """What a run of the journal may hold."""
    from ledger import _wire

    rows = [(value, f"[{name}](#{name})") for _, value, name in _wire.names()["journal_kinds"]]
    return "\n### JournalKind\n\n" + table("number:|record", rows)


def limits() -> str:
    """config.py: its limits under its own headings, and the exit codes."""
    from ledger import config

    text = f"\n## Limits\n\n{LIMITS_PROSE}"
    rows: list[tuple[str, str, str]] = []
    source, _, exits = (ROOT / "ledger" / "config.py").read_text().partition("class Exit")
    for paragraph in source.split("\n\n"):
        if heading := re.match(r"# ([^.:]+)[.:]", paragraph):
            text += table("name|value:|note", rows) if rows else ""
            text += f"\n### {heading[1]}\n\n"
            rows = []
        for name, note in re.findall(r"^([A-Z_]+) = [^#\n]*?(?:  # (.*))?$", paragraph, re.M):
            value = getattr(config, name)
            shown = f"{value:,}" if isinstance(value, int | float) else str(value)
            rows.append((f"`{name}`", shown, note))
    text += table("name|value:|note", rows)
    codes = re.findall(r"    ([A-Z_]+) = (\d+)(?:  # (.*))?\n", exits)
    text += "\n## Exit codes of `ledger`\n\n"
    rows = [(code, f"`{name.lower()}`", note) for name, code, note in codes]
    return text + table("code:|name|note", rows)


def render() -> str:
    """The text of docs/reference/data-model.md."""
    from ledger import _wire

    frames = [name for name in _wire.layout() if name.startswith("frame_")]
    text = f"{OPENING}\n## {CLIENT}\n\n{CLIENT_PROSE}" + "".join(map(record, RECORDS))
    text += flags("AccountFlags", "account_flags")
    text += flags("TransferFlags", "transfer_flags")
    text += flags("AccountFilterFlags", "account_filter_flags")
    text += flags("QueryFilterFlags", "query_filter_flags")
    text += operations() + statuses()
    text += f"\n## The journal\n\n{JOURNAL_PROSE}" + kinds()
    text += "".join(map(record, JOURNAL)) + flags("HoldOutcome", "hold_outcomes")
    text += f"\n## Frames\n\n{FRAMES_PROSE}" + flags("Command", "commands")
    text += "".join(map(record, frames)) + flags("EvictionReason", "eviction_reasons")
    text += flags("WireError", "wire_errors")
    text += f"\n## In memory\n\n{MEMORY_PROSE}" + "".join(map(record, MEMORY))
    text += flags("Verdict", "verdicts")
    return text + limits()


def main() -> int:
    """Write the page, or with --check compare it; 1 when it is stale."""
    sys.path.insert(0, str(ROOT))
    text = render()
    if "--check" in sys.argv[1:]:
        fresh = PAGE.exists() and PAGE.read_text() == text
        if not fresh:
            sys.stderr.write("docs/reference/data-model.md is stale: run python tools/docs.py\n")
        return 0 if fresh else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
