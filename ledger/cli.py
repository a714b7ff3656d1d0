"""Commands: `ledger ...` on the command line: arguments in, exit codes out.

Every error the ledger raises on purpose becomes one line on stderr and its exit code. What the
commands do is in the modules they call.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click

from ledger.config import Exit
from ledger.errors import LedgerError


def parse_address(address: str) -> tuple[str, int]:
    """HOST:PORT or [IPV6]:PORT. click.BadParameter for anything else."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{address!r} is not HOST:PORT")
    return host, int(port)


@click.group()
def command() -> None:
    """A double-entry payment ledger."""


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--address", default="127.0.0.1:3000", show_default=True)
@click.option("--cluster", type=int, default=None)
@click.option("--accept-clock", is_flag=True)
@click.option("--allow-plaintext", is_flag=True)
def serve(
    directory: Path, address: str, cluster: int | None, accept_clock: bool, allow_plaintext: bool
) -> None:
    """Serve the book in DIRECTORY, made when new, until SIGTERM."""
    from ledger import server

    host, port = parse_address(address)
    code = server.serve(
        directory,
        host,
        port,
        cluster,
        accept_clock=accept_clock,
        allow_plaintext=allow_plaintext,
        on_listening=lambda host, port: click.echo(f"listening on {host}:{port}"),
        on_warning=lambda text: click.echo(f"ledger: {text}", err=True),
    )
    sys.exit(code)


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        command(standalone_mode=True)
    except LedgerError as error:
        click.echo(f"ledger: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"ledger: {error}", err=True)
        sys.exit(Exit.IO_ERROR)
    sys.exit(Exit.OK)
