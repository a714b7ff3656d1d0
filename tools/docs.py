"""Writes the generated pages of docs/: the reference, and the picture of the rooms.

    python tools/docs.py            write what is stale
    python tools/docs.py --check    name what is stale, and end with 1

The data model and the blocks between the marks of the wire protocol come from the tables that the
compiled modules hold and from limits.py; the API page from docstrings; the page of the command line
from click; the picture from the table of rooms in docs/internals/architecture.md. Here are the
order of each page and the sentences between. This file knows how those sources are laid out and
nothing of what becomes of a record.
"""

from __future__ import annotations

import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
DATA_MODEL = REFERENCE / "data-model.md"
WIRE_PROTOCOL = REFERENCE / "wire-protocol.md"
ARCHITECTURE = DOCS / "internals" / "architecture.md"

# ---- the data model -----------------------------------------------------------------------------

OPENING = """\
# Data model

Every record, code, flag and limit of the ledger. `tools/docs.py` writes this page from the lists in
`ledger/facts/record.h`, `status.h` and `limits.py`: change the lists, not the page. The frames that
carry the records over a socket are in [Wire protocol](wire-protocol.md).

Numbers are unsigned and little-endian, and records have no padding. Times are nanoseconds since
1970 by the ledger's clock, and amounts are in the smallest unit of their ledger. Fields named
`reserved` or `padding` must be zero.
"""

CLIENT = "What a client sends and receives"
CLIENT_PROSE = """\
The layouts and numbers are those of the protocol that `tigerbeetle` clients of release 0.17 speak.
Where an operation takes ids, an event is 16 bytes: one u128.

A post with `amount` 0 moves nothing and releases the whole hold, since release 0.16 of the
protocol; 2^128-1 moves all of it. A void with `amount` 0 releases all of it. An expiry is no
transfer: it has no row in the history of balances, and the next row shows what it changed. In a
filter a timestamp of 0 is open, so a reversed page that ends at timestamp 1 is the last one.
"""

OPERATIONS_PROSE = """\
A request holds events of one operation, alone or as several batches. A query takes one filter a
batch. The journal records only the operations that create, and `register`.
"""

STATUSES_PROSE = """\
An event has one result. When it breaks several rules, the result is the first of them in this list.
A **transient** failure burns the transfer's id: from then on the id answers `id_already_failed`,
whatever has changed, so that no retry can succeed after its sender saw the failure.
"""

JOURNAL_PROSE = """\
A commit group is one durable append: a header, runs of records, and 8 bytes of check for each
4 KiB. A run is a header of its own and then records of one kind. Every record takes one position,
the book's only counter. Accounts and transfers are the records above, as created.
"""

MEMORY_PROSE = """\
The descriptors that doors and the core exchange inside a process. They are never stored or sent,
and may change with any release.
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


def facts() -> Any:
    """The compiled module that holds the tables of facts."""
    from ledger.facts import _facts

    return _facts


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
    size, _, doc = facts().layout()[name]
    return f"\n### {name}\n\n{doc[0].upper()}{doc[1:]}; {size} bytes.\n\n{fields_of(name)}"


def fields_of(name: str) -> str:
    """The fields of one record."""
    rows = [
        (offset, width, f"{kind}[{count}]" if count > 1 else kind, f"`{field}`", meaning)
        for field, kind, count, offset, width, meaning in facts().layout()[name][1]
    ]
    return table("offset:|bytes:|type|field|meaning", rows)


def flags(title: str, name: str) -> str:
    """A list of names with numbers, under a heading."""
    return f"\n### {title}\n\n{names(name)}"


def names(name: str) -> str:
    """A list of names with numbers."""
    rows = [(value, f"`{member.lower()}`", doc) for member, value, doc in facts().names()[name]]
    return table("number:|name|meaning", rows)


def operations() -> str:
    """The operations, with the records of request and reply."""
    rows = [
        (number, f"`{name.lower()}`", event, "one" if single else "many", result, doc)
        for name, number, event, result, single, _, doc in facts().operations()
    ]
    register = facts().limits()["OPERATION_REGISTER"]
    rows.insert(0, (register, "`register`", "none", "none", "session number", "open a session"))
    heads = "number:|name|event|events a batch|result|meaning"
    return table(heads, rows)


def statuses() -> str:
    """The result codes in order of precedence."""
    created = facts().limits()["STATUS_CREATED"]
    text = f"\n## Result codes\n\n{STATUSES_PROSE}\n`created` is {created:,}.\n"
    for title, name in (("accounts", "account_statuses"), ("transfers", "transfer_statuses")):
        rows = [
            (place, value, f"`{status.lower()}`", "transient" if transient else "")
            for place, (status, value, transient) in enumerate(facts().statuses()[name], 1)
        ]
        text += f"\n### Of {title}\n\n" + table("precedence:|number:|name|mark", rows)
    return text


def kinds() -> str:
    """What a run of the journal may hold."""
    rows = [(value, f"[{name}](#{name})") for _, value, name in facts().names()["journal_kinds"]]
    return "\n### JournalKind\n\n" + table("number:|record", rows)


def limits() -> str:
    """The limits of limits.py, under its own headings."""
    from ledger.facts import limits as config

    text = f"\n## Limits\n\n{LIMITS_PROSE}"
    rows: list[tuple[str, str, str]] = []
    source = (ROOT / "ledger" / "facts" / "limits.py").read_text().partition("class Exit")[0]
    for paragraph in source.split("\n\n"):
        if heading := re.match(r"# ([^.:]+)[.:]", paragraph):
            text += table("name|value:|note", rows) if rows else ""
            text += f"\n### {heading[1]}\n\n"
            rows = []
        for name, note in re.findall(r"^([A-Z_]+) = [^#\n]*?(?:  # (.*))?$", paragraph, re.M):
            value = getattr(config, name)
            shown = f"{value:,}" if isinstance(value, int | float) else str(value)
            rows.append((f"`{name}`", shown, note))
    return text + table("name|value:|note", rows)


def exit_codes() -> str:
    """The exit codes of `ledger`, from limits.py."""
    exits = (ROOT / "ledger" / "facts" / "limits.py").read_text().partition("class Exit")[2]
    codes = re.findall(r"    ([A-Z_]+) = (\d+)(?:  # (.*))?\n", exits)
    rows = [(code, f"`{name.lower()}`", note) for name, code, note in codes]
    return table("code:|name|note", rows)


def data_model() -> str:
    """The text of the page of the data model."""
    text = f"{OPENING}\n## {CLIENT}\n\n{CLIENT_PROSE}" + "".join(map(record, RECORDS))
    text += flags("AccountFlags", "account_flags")
    text += flags("TransferFlags", "transfer_flags")
    text += flags("AccountFilterFlags", "account_filter_flags")
    text += flags("QueryFilterFlags", "query_filter_flags")
    text += f"\n## Operations\n\n{OPERATIONS_PROSE}\n" + operations() + statuses()
    text += f"\n## The journal\n\n{JOURNAL_PROSE}" + kinds()
    text += "".join(map(record, JOURNAL)) + flags("HoldOutcome", "hold_outcomes")
    text += f"\n## In memory\n\n{MEMORY_PROSE}" + "".join(map(record, MEMORY))
    text += flags("Verdict", "verdicts") + limits()
    return f"{text}\n## Exit codes\n\nOf the commands `ledger ...`.\n\n{exit_codes()}"


# ---- the wire protocol: blocks of tables in a page that is written by hand ----------------------

BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def blocks() -> dict[str, Callable[[], str]]:
    """What stands between the marks of the wire protocol's page, by the name of the mark."""
    frames = [name for name in facts().layout() if name.startswith("frame_")]
    found: dict[str, Callable[[], str]] = {
        name: lambda name=name: fields_of(name) for name in frames
    }
    for name in ("commands", "eviction_reasons", "wire_errors"):
        found[name] = lambda name=name: names(name)
    return found | {"operations": operations}


def filled(page: str) -> str:
    """The page with the tables of today between its marks. ValueError when a mark is missing."""
    for name, block in blocks().items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"the page has no marks {begin} and {end}")
        page = f"{before}{begin}\n\n{block()}\n{end}{after}"
    return page


def wire_protocol() -> str:
    """The text of the page of the wire protocol."""
    return filled(WIRE_PROTOCOL.read_text(encoding="utf-8"))


# ---- the API, from docstrings -------------------------------------------------------------------

API_OPENING = """\
# Python API

`tools/docs.py` writes this page from the docstrings of the package: change the docstrings, not the
page. The names below are the public ones, all of them in the module `ledger`; everything else may
change. [Embed](../embed.md) shows how they are used.

*Rows* is a numpy array of records. Shapes are written as numpy has them: `(n,)` is an array of n
records, and `(n, 2)` with dtype uint64 a column of 128-bit numbers, low limb first. The fields of
every record are in [Data model](data-model.md).
"""

CALLS_PROSE = """\
`Book` and `Client` have these methods; `AsyncBook` and `AsyncClient` have the same as coroutines,
and the `iter_...` methods as asynchronous iterators.
"""

# The sections of the page: what stands under each heading, in this order.
OPENERS = ("open", "open_async", "open_temporary", "open_temporary_async")
BOOKS = ("Book", "AsyncBook", "Client", "AsyncClient")
NUMBERS = ("id", "ids", "int_of", "ints", "limbs", "total", "order", "u128", "units", "decimal")
ROWS = ("rows", "structs", "columns", "describe", "refusals", "raise_for_status")


def signature(function: Any, *, constructor: bool = False) -> str:
    """The parameters of a function as they are written in its source."""
    shown, star = [], False
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "self":
            continue
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        text = stars.get(parameter.kind, "") + name
        if parameter.annotation is not parameter.empty:
            text += f": {parameter.annotation}"
        if (default := parameter.default) is not parameter.empty:
            text += f" = {default.__name__ if isinstance(default, type) else repr(default)}"
        shown.append(text)
    back = inspect.signature(function).return_annotation
    ends = "" if constructor or back is inspect.Signature.empty else f" -> {back}"
    return f"({', '.join(shown)}){ends}"


def documented(level: int, name: str, value: Any) -> str:
    """A heading, the signature and the docstring of a function, a method or a property."""
    is_property = isinstance(value, property)
    function = value.fget if is_property else value
    shown = "" if is_property else signature(inspect.unwrap(function))
    doc = inspect.cleandoc(function.__doc__ or "")
    if not doc:
        raise ValueError(f"{name} has no docstring")
    heading = f"{'#' * level} {name}"
    kind = "property `" if is_property else "`"
    return f"\n{heading}\n\n{kind}{name.rpartition('.')[2]}{shown}`\n\n{doc}\n"


def members(kind: type, inherited: Iterable[type] = ()) -> list[tuple[str, Any]]:
    """The public methods and properties of a class, but for those of `inherited`."""
    left_out = {name for base in inherited for name in vars(base)}
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__[:-1]):
        if base.__module__.startswith("ledger"):
            found |= {name: value for name, value in vars(base).items() if name[0] != "_"}
    return [
        (name, value)
        for name, value in found.items()
        if name not in left_out and (callable(value) or isinstance(value, property))
    ]


def class_section(name: str, inherited: tuple[type, ...]) -> str:
    """A class: how it is made, its docstring, and the methods that only it has."""
    import ledger

    kind = getattr(ledger, name)
    made = signature(kind.__init__, constructor=True) if name.endswith("Client") else ""
    text = f"\n### {name}\n\n`{name}{made}`\n\n{inspect.cleandoc(kind.__doc__)}\n"
    for method, value in members(kind, inherited):
        base = next(base for base in kind.__mro__ if method in vars(base))
        doc = getattr(value, "fget", value).__doc__ or ""
        if base is kind or not doc.startswith("As "):
            text += documented(4, f"{name}.{method}", value)
    return text


def errors() -> str:
    """The errors, each with the exit code that it ends a command with."""
    import ledger

    rows = []
    for name in ledger.__all__:
        kind = getattr(ledger, name)
        if isinstance(kind, type) and issubclass(kind, ledger.LedgerError):
            doc = " ".join(inspect.cleandoc(kind.__doc__ or "").split())
            rows.append((f"`{name}`", f"`{kind.__base__.__name__}`", int(kind.exit_code), doc))
    return table("error|base|exit code:|meaning", rows)


def records_section() -> str:
    """The dtypes, structs, enums and constants, which other pages describe."""
    import ledger

    rows = []
    for name in ledger.__all__:
        value = getattr(ledger, name)
        if hasattr(value, "itemsize"):
            rows.append((f"`{name}`", f"numpy dtype of {value.itemsize} bytes"))
        elif hasattr(value, "__struct_fields__"):
            rows.append((f"`{name}`", f"struct: {', '.join(value.__struct_fields__)}"))
        elif isinstance(value, type) and hasattr(value, "__members__"):
            base = value.__base__.__name__
            rows.append((f"`{name}`", f"{base} of {len(value.__members__)} names"))
        elif isinstance(value, int):
            rows.append((f"`{name}`", "2^128-1: as the amount of a post, all of the hold"))
    return table("name|what it is", rows)


def api() -> str:
    """The text of the page of the Python API. ValueError for a public name without a place."""
    import ledger
    from ledger.api import calls, paging

    shared = (calls.Calls, paging.Pages, paging.AsyncPages)
    text = API_OPENING + "\n## Opening a book\n"
    text += "".join(documented(3, name, getattr(ledger, name)) for name in OPENERS)
    text += f"\n## The calls\n\n{CALLS_PROSE}\n{inspect.cleandoc(calls.Calls.__doc__ or '')}\n"
    text += "".join(documented(3, name, value) for name, value in members(calls.Calls))
    text += f"\n### Long answers\n\n{inspect.cleandoc(paging.Pages.__doc__ or '')}\n"
    text += "".join(
        documented(4, name, value) for name, value in members(paging.Pages, (calls.Calls,))
    )
    text += "\n## Books and clients\n" + "".join(class_section(name, shared) for name in BOOKS)
    text += "\n## Ids, 128-bit numbers, amounts\n"
    text += "".join(documented(3, name, getattr(ledger, name)) for name in NUMBERS)
    text += "\n## Records and results\n"
    text += "".join(documented(3, name, getattr(ledger, name)) for name in ROWS)
    text += f"\n## Types and constants\n\n{records_section()}"
    refusal = inspect.cleandoc(ledger.Refusal.__doc__ or "")
    text += f"\n### Refusal\n\n`{signature(ledger.Refusal, constructor=True)}`\n\n{refusal}\n"
    text += f"\n## Errors\n\n{errors()}"
    for name in ledger.__all__:
        if f"`{name}`" not in text and f"`{name}(" not in text and f"### {name}\n" not in text:
            raise ValueError(f"ledger.{name} is public and has no place on the API page")
    return text


# ---- the command line, from click ---------------------------------------------------------------

CLI_OPENING = """\
# Command line

`tools/docs.py` writes this page from the commands themselves: change those, not the page. Results
go to standard output; progress, warnings and errors to standard error. Every command takes
`--help`. [Operate](../operate.md) says what the messages mean.
"""

CHAOS_PROSE = """\
From a checkout of the source. [Chaos](../internals/chaos.md) says what the scenarios are.
"""


def command(path: str, one: Any) -> str:
    """A command: its usage, what it does, its arguments and options."""
    context = one.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *one.collect_usage_pieces(context)])
    rows = []
    for parameter in one.get_params(context):
        if parameter.param_type_name != "option" or "--help" in parameter.opts:
            continue
        kind = "" if parameter.is_flag else parameter.metavar or kind_of(parameter.type)
        default = parameter.default if parameter.show_default else None
        if callable(default) or isinstance(parameter.show_default, str):
            default = parameter.show_default
        words = ", ".join(f"`{option}`" for option in parameter.opts)
        rows.append((words, kind, "" if default is None else default, parameter.help or ""))
    text = f"\n### {path}\n\n```text\n{usage}\n```\n\n{inspect.cleandoc(one.help or '')}\n"
    return text + ("\n" + table("option|value|default|meaning", rows) if rows else "")


def kind_of(kind: Any) -> str:
    """A type of click's, in words."""
    if hasattr(kind, "choices"):
        return " or ".join(map(str, kind.choices))
    return {"float": "number"}.get(word := kind.name.removesuffix(" range"), word)


def cli() -> str:
    """The text of the page of the command line."""
    from chaos.cli import main as chaos
    from ledger.commands.cli import cli as ledger

    text = CLI_OPENING + "\n## ledger\n"
    text += "".join(command(f"ledger {name}", one) for name, one in ledger.commands.items())
    text += f"\n## Exit codes\n\n{exit_codes()}"
    text += f"\n## python -m chaos\n\n{CHAOS_PROSE}"
    return text + "".join(
        command(f"python -m chaos {name}", one) for name, one in chaos.commands.items()
    )


# ---- the picture of the rooms -------------------------------------------------------------------

ROOM = re.compile(r"^\| `(\w+)` \| ([^|]+?) \|$", re.MULTILINE)
# How the rooms stand: a room is drawn above those that know less than it.
FLOORS = (
    ("commands",), ("load", "audit"), ("host",), ("doors", "api", "client"), ("engine",),
    ("core",), ("history",), ("wire", "journal"), ("facts",), ("base",),
)  # fmt: skip
WIDTH, HEIGHT, GAP, LINE_CHARACTERS = 940, 58, 10, 132


def rooms(page: str) -> dict[str, str]:
    """The rooms of ledger/ and what each is for, from the table of the architecture's page."""
    return dict(ROOM.findall(page.partition("\n## Rooms\n")[2].partition("\n## ")[0]))


def picture() -> str:
    """The rooms as an SVG, those that know least at the bottom. ValueError for one left out."""
    told = rooms(ARCHITECTURE.read_text(encoding="utf-8"))
    if set(told) != {name for floor in FLOORS for name in floor}:
        raise ValueError(f"FLOORS and the table of rooms differ: {sorted(told)}")
    shapes = []
    for row, floor in enumerate(FLOORS):
        width = (WIDTH - GAP * (len(floor) + 1)) / len(floor)
        for column, name in enumerate(floor):
            x, y = GAP + column * (width + GAP), GAP + row * (HEIGHT + GAP)
            shapes.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="6"/>'
                f'<text class="name" x="{x + 12:.0f}" y="{y + 19}">{name}</text>'
            )
            for number, line in enumerate(wrapped(told[name], LINE_CHARACTERS // len(floor))):
                shapes.append(
                    f'<text x="{x + 12:.0f}" y="{y + 35 + 14 * number}">{html.escape(line)}</text>'
                )
    height = GAP + len(FLOORS) * (HEIGHT + GAP)
    return SVG.format(width=WIDTH, height=height, rows="\n".join(shapes))


def wrapped(text: str, width: int) -> list[str]:
    """The sentence up to its first full stop or semicolon, in at most two lines."""
    lines = [""]
    for word in re.split(r"[.;]", text.replace("`", ""))[0].split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>The rooms of ledger/, those that know least at the bottom</title>
<style>
rect {{ fill: #eef3f8; stroke: #5b7a99; }}
text {{ font: 12px system-ui, sans-serif; fill: #22303c; }}
.name {{ font-weight: 600; font-size: 14px; }}
</style>
{rows}
</svg>
"""

# ---- writing and comparing ----------------------------------------------------------------------

PAGES: dict[Path, Callable[[], str]] = {
    DATA_MODEL: data_model,
    WIRE_PROTOCOL: wire_protocol,
    REFERENCE / "api.md": api,
    REFERENCE / "cli.md": cli,
    DOCS / "images" / "rooms.svg": picture,
}


def main() -> int:
    """Write what is stale, or with --check name it; 1 when something is stale then."""
    sys.path.insert(0, str(ROOT))
    found = 0
    for path, render in PAGES.items():
        text = render()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"{path.name} is stale: run python tools/docs.py\n")
            found = 1
        else:
            path.write_text(text, encoding="utf-8")
    return found


if __name__ == "__main__":
    sys.exit(main())
