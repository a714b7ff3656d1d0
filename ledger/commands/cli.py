"""`ledger`: arguments in, the right call, and one line and one exit code for each error.

What a command does lives elsewhere and is imported when it is called, so that --help is quick.
Results go to standard output; progress, warnings and errors to standard error, and how is said in
output.py. The exit codes are those of limits.Exit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from ledger.base import output
from ledger.facts.errors import LedgerError, system_limit
from ledger.facts.limits import VERSION, Exit

if TYPE_CHECKING:
    from ledger.audit.verify import Report

PROGRESS_AFTER_SECONDS = 2.0
INTERRUPTED = 130  # as shells have it

# Not docstrings: an interpreter that drops those (PYTHONOPTIMIZE=2) must not drop the help.
_HELP = {
    "ledger": "A double-entry payment ledger: durable, exactly once, fast.",
    "serve": """\
Serve the book in DIRECTORY until SIGTERM or SIGINT; a missing or empty one becomes a new book.""",
    "verify": """\
Read all of the book in DIRECTORY, which nobody serves, and add it up again.

Exit code 1 and the first wrong position when it is not clean.""",
    "inspect": "Tell what the book in DIRECTORY holds; it may be served meanwhile.",
    "rebuild": """\
Make all that is derived from the journal in DIRECTORY anew, once it is verified.

With --trust-journal the one way on when a book is refused because its journal ends before its
head stamp.""",
    "load": """\
Pay at the server at HOST:PORT as fast as it takes it, or at a rate, and tell what it did.

Exit code 1 when anything is wrong: a payment unanswered, or not as it was sent.""",
}

_DIRECTORY = click.argument("directory", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of text.")


def _address(_: click.Context, parameter: click.Parameter, value: str) -> tuple[str, int]:
    """HOST:PORT, or [HOST]:PORT for IPv6, as host and port."""
    host, separator, port = value.rpartition(":")
    if not separator or not host:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as 127.0.0.1:3000")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise click.BadParameter(f"{port!r} in {value!r} is not a port, 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise click.BadParameter(f"{value!r}: an IPv6 address needs brackets, [::1]:3000")
    return host, int(port)


def _number(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A whole number within 128 bits, decimal or 0x hexadecimal."""
    if value is None:
        return None
    try:
        number = int(value, 16 if value.lower().startswith("0x") else 10)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number, decimal or 0x...") from None
    if not 0 <= number < 1 << 128:
        raise click.BadParameter(f"{value} is not within 0 .. 2^128-1")
    return number


@click.group(help=_HELP["ledger"], context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="ledger", message="%(prog)s %(version)s")
def cli() -> None:
    ...


@cli.command(help=_HELP["serve"])
@_DIRECTORY
@click.option(
    "--address",
    callback=_address,
    metavar="HOST:PORT",
    default="127.0.0.1:3000",
    show_default=True,
    help="Where to listen; port 0 takes a free one.",
)
@click.option(
    "--cluster",
    callback=_number,
    metavar="ID",
    help="The book's cluster id; refuses any other book.",
)
@click.option("--accept-clock", is_flag=True, help="Take a wall clock far ahead of the journal.")
@click.option("--allow-plaintext", is_flag=True, help="Listen beyond this machine.")
def serve(
    directory: Path,
    address: tuple[str, int],
    cluster: int | None,
    accept_clock: bool,
    allow_plaintext: bool,
) -> int:
    _end_while_it_starts()
    from ledger.host import server

    def listening(host: str, port: int) -> None:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        output.log(f"listening on {where}", 1)

    logging.basicConfig(format="%(message)s", handlers=[output.LogHandler()])
    with _progress("replaying") as progress:
        return server.serve(
            directory,
            *address,
            cluster,
            accept_clock=accept_clock,
            allow_plaintext=allow_plaintext,
            on_progress=progress,
            on_listening=listening,
            on_warning=output.log_warning,
        )


@cli.command(help=_HELP["verify"])
@_DIRECTORY
@_JSON
def verify(directory: Path, as_json: bool) -> int:
    from ledger.audit.verify import verify as run

    with _progress("verifying") as progress:
        report = run(directory, lambda at: progress(at.group, at.groups))
    _tell_report(report, as_json)
    return Exit.OK if report.clean else Exit.FAULT_FOUND


@cli.command(help=_HELP["inspect"])
@_DIRECTORY
@click.option("--account", callback=_number, metavar="ID", help="One account and its balances.")
@click.option("--transfer", callback=_number, metavar="ID", help="One transfer and its hold.")
@click.option("--group", type=int, metavar="N", help="One group of the journal: header and runs.")
@_JSON
def inspect(
    directory: Path, account: int | None, transfer: int | None, group: int | None, as_json: bool
) -> None:
    from ledger.commands import inspect as room

    if sum(choice is not None for choice in (account, transfer, group)) > 1:
        raise click.UsageError("--account, --transfer and --group exclude each other")
    with _progress("reading") as progress:
        if account is not None:
            facts = room.inspect_account(directory, account, progress)
        elif transfer is not None:
            facts = room.inspect_transfer(directory, transfer, progress)
        elif group is not None:
            facts = room.inspect_group(directory, group)
        else:
            facts = room.inspect(directory, progress)
    _tell(facts, as_json)


@cli.command(help=_HELP["rebuild"])
@_DIRECTORY
@click.option(
    "--trust-journal", is_flag=True, help="Accept that what the journal has lost is gone."
)
@_JSON
def rebuild(directory: Path, trust_journal: bool, as_json: bool) -> int:
    from ledger.audit import verify as room
    from ledger.engine import recovery

    with _progress("verifying") as progress:
        run = room.rebuild if trust_journal else room.verify
        report = run(directory, lambda at: progress(at.group, at.groups))
    if report.fault is not None:
        output.error(f"{report.fault}; nothing was rebuilt")
        return Exit.FAULT_FOUND
    with _progress("rebuilding") as progress:
        rebuilt = recovery.rebuild(directory, progress)
    if as_json:
        _tell({"directory": str(directory)} | dataclasses.asdict(rebuilt), as_json)
    else:
        output.result(
            f"{directory}: rebuilt; the book ends at position {rebuilt.position}\n"
            f"segments {rebuilt.segments}, history hash {rebuilt.history_hash}"
        )
    return Exit.OK


_LOAD_HELP = {
    "cluster": "The server's cluster id.",
    "accounts": "Accounts to pay between.",
    "transfers": "Payments in all; a million when neither this nor a duration is given.",
    "duration_seconds": "How long to send.",
    "batch": "Payments in a request.",
    "sessions": "Sessions on each connection.",
    "connections": "Connections.",
    "rate": "Payments due each second; without it each session sends when it is answered.",
    "distribution": "Which accounts are paid.",
    "zipf_exponent": "With --distribution zipf: how uneven.",
    "hot_share": "With --distribution hot: share of payments that touch the hot account.",
    "pending_share": "Share of payments that open a hold.",
    "resolved_share": "Share of holds that the next payment posts or voids.",
    "hold_seconds": "When other holds expire; 0 for never.",
    "duplicate_share": "Share of payments that are sent a second time.",
    "id_order": "Ids in order of time, or at random.",
    "seed": "The same seed makes the same payments.",
    "skip": "Leave out so many payments of the seed, sent by an earlier run.",
    "ledger": "The ledger of the accounts.",
    "history": "Accounts that keep their balances.",
    "check": "Look up every acknowledged payment and add up the accounts.",
    "patience_seconds": "Give up when no reply came for so long.",
}


class _LoadCommand(click.Command):
    """Its options are the fields of load's Options, which need not be known to be called."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        import msgspec

        from ledger.load.report import Options

        fields = [field for field in msgspec.structs.fields(Options) if field.name in _LOAD_HELP]
        options = [_load_option(field.name, field.type, field.default) for field in fields]
        return [*self.params, *options, *super().get_params(ctx)[len(self.params) :]]


def _load_option(name: str, kind: Any, default: Any) -> click.Option:
    choices = [one for one in get_args(kind) if one is not type(None)] or [kind]
    typed = click.Choice(choices) if isinstance(choices[0], str) else choices[0]
    return click.Option(
        ["--" + name.replace("_", "-")],
        type=typed,
        is_flag=kind is bool,
        default=default,
        show_default=default is not None and kind is not bool,
        help=_LOAD_HELP[name],
    )


@cli.command(cls=_LoadCommand, help=_HELP["load"])
@click.argument("address", metavar="HOST:PORT")
@_JSON
def load(address: str, as_json: bool, **options: Any) -> int:
    from ledger.load import run as room

    try:
        chosen = room.Options(address=address, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return room.main(chosen, as_json)


def _end_while_it_starts() -> None:
    """Let SIGTERM and SIGINT end a server that has nothing open yet. The system drops what process
    1, that of a container, has no handler for, and to import takes a moment."""
    with contextlib.suppress(ValueError):  # in another thread than the main one
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(Exit.OK))


# ---- progress, results and errors ---------------------------------------------------------------


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error, for what takes longer than two seconds."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)
    begins = time.monotonic() + PROGRESS_AFTER_SECONDS
    shown = False

    def progressed(done: int, total: int) -> None:
        nonlocal shown
        with contextlib.suppress(OSError, ValueError):  # the terminal may have gone
            if not shown and time.monotonic() >= begins and done < total:
                shown = True
                bar.start()
            if shown:
                bar.update(task, completed=done, total=total)
                if done == total:
                    stop()

    def stop() -> None:
        nonlocal shown
        if shown:
            shown = False
            bar.stop()

    try:
        yield progressed
    finally:
        with contextlib.suppress(OSError, ValueError):
            stop()


def _tell_report(report: Report, as_json: bool) -> None:
    import msgspec

    for fault in (report.fault, report.stamp_fault):
        if fault is not None:
            output.error(str(fault))
    if as_json:
        facts = msgspec.to_builtins(report) | {"clean": report.clean}
        _tell(facts | {"ledgers": [total._asdict() for total in report.ledgers]}, as_json=True)
        return
    for warning in report.warnings:
        output.warn(warning)
    _tell(
        {
            "book": f"{report.directory}, cluster {report.cluster}",
            "read": f"{report.groups} groups, {report.position} positions",
            "records": {name: count for name, count in report.records.items() if count},
            "ledgers": [total._asdict() for total in report.ledgers],
            "digest": report.digest,
            "state_hash": report.state_hash,
        },
        as_json=False,
    )
    if report.clean:
        output.result(f"clean: debits equal credits in every ledger ({report.seconds} s)")


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    from ledger.facts import json_values

    output.result(json_values.line(facts) if as_json else output.table(facts))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    output.fill_standard_descriptors()
    logging.raiseExceptions = False
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with cli.make_context("ledger", list(words) or ["--help"]) as context:
            code = cli.invoke(context)
        output.flush_results()
        return int(code or 0)
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        command = where.command_path if where is not None else "ledger"
        output.error(f"{error.format_message()} (see {command} --help)")
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        output.abandon_results()  # whoever read the results has gone
        return Exit.OK
    except LedgerError as error:
        told = system_limit(error) or error
        output.error(str(told))
        return told.exit_code
    except OSError as error:
        if (why := system_limit(error)) is not None:
            output.error(str(why))
            return why.exit_code
        output.error(str(error))
        output.abandon_results()
        return Exit.IO_ERROR
    except (MemoryError, RuntimeError) as error:
        if (why := system_limit(error)) is None:
            raise
        output.error(str(why))
        return why.exit_code
