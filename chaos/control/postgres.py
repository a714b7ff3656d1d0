"""A PostgreSQL server of our own: found, made in a scratch directory, ended by its pid.

It listens on a unix socket alone and runs as an unprivileged user, which it insists on. Its
settings are those of somebody who wants it fast and loses nothing: they are read back from the
running server, never assumed. The books are two tables and one function; a payment is one call of
it, one round trip, one transaction. This file makes no load and knows no scenario.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

FOLDER = Path("/usr/lib/postgresql")  # where Debian puts each version's binaries
UNPRIVILEGED = ("postgres", "nobody")
OWNER, DATABASE = "ledger", "postgres"
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
POLL_SECONDS = 0.02
CONNECTIONS_SPARE = 10

SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "1GB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_buffers": "64MB",
    "min_wal_size": "2GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "default_transaction_isolation": "read committed",
    "autovacuum": "on",
    "jit": "off",
    "log_min_messages": "fatal",  # a line for each time-out would be work that nobody asked for
}  # fmt: skip

# Half of each page of accounts is left free, so that an update stays on its page and touches no
# index. The transfer is written first and the rows are locked last, in the order of their ids:
# locks are held as briefly as they can be and no two payments wait for each other in a ring.
TABLES = """
create table accounts (
    id bigint primary key,
    debits_posted bigint not null default 0,
    credits_posted bigint not null default 0
) with (fillfactor = 50);
create table transfers (
    id bigint primary key,
    debit_account_id bigint not null,
    credit_account_id bigint not null,
    amount bigint not null,
    created_at timestamptz not null default clock_timestamp()
);
"""
FUNCTION = """
create function pay(p_id bigint, p_debit bigint, p_credit bigint, p_amount bigint)
returns boolean language plpgsql as $$
begin
    insert into transfers (id, debit_account_id, credit_account_id, amount)
        values (p_id, p_debit, p_credit, p_amount) on conflict (id) do nothing;
    if not found then return false; end if;
    if p_debit < p_credit then
        update accounts set debits_posted = debits_posted + p_amount where id = p_debit;
        update accounts set credits_posted = credits_posted + p_amount where id = p_credit;
    else
        update accounts set credits_posted = credits_posted + p_amount where id = p_credit;
        update accounts set debits_posted = debits_posted + p_amount where id = p_debit;
    end if;
    return true;
end $$;
"""
STATEMENT = "select pay($1, $2, $3, 1)"


class PostgresFailed(Exception):
    """The server did not start, did not end, or answered what it must not."""


def find() -> Path | None:
    """The folder of the newest version's binaries, or None."""
    found = [path.parent for path in FOLDER.glob("*/bin/postgres")]
    found = [path for path in found if (path / "initdb").exists()]
    return max(found, key=lambda path: _version(path.parent.name), default=None)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(word) for word in name.split(".") if word.isdigit())


def missing() -> str | None:
    """Why there can be no control arm on this machine; None when there can."""
    if find() is None:
        return f"no PostgreSQL server below {FOLDER} (Debian: postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"no PostgreSQL client: {error} (pip install ledger[chaos])"
    if os.geteuid() == 0 and _user() is None:
        return f"PostgreSQL refuses to run as root; there is no user {' or '.join(UNPRIVILEGED)}"
    return None


def _user() -> pwd.struct_passwd | None:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next((known[name] for name in UNPRIVILEGED if name in known), None)


class Postgres:
    """One server in `scratch`, an existing directory that it may enter: with Postgres(...) as it.

    `lock_timeout_seconds` is the server's lock_timeout for every session.
    """

    def __init__(
        self, binaries: Path, scratch: Path, lock_timeout_seconds: float, connections_max: int
    ) -> None:
        self._binaries = binaries
        self.folder = scratch / "postgres"
        self._settings = SETTINGS | {
            "unix_socket_directories": str(self.folder),
            "lock_timeout": f"{lock_timeout_seconds * 1000:.0f}ms",
            "max_connections": str(connections_max + CONNECTIONS_SPARE),
        }
        self._identity: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.conninfo = f"host={self.folder} user={OWNER} dbname={DATABASE}"

    def __enter__(self) -> Postgres:
        try:
            self._make()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700)
        user = _user() if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(self.folder, user.pw_uid, user.pw_gid)
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        command = [str(self._binaries / "initdb"), "-D", str(self.folder / "data"), "-U", OWNER]
        command += ["--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync"]
        made = subprocess.run(
            command, cwd=self.folder, capture_output=True, check=False, text=True, **self._identity
        )
        if made.returncode:
            raise PostgresFailed(f"initdb: {made.stderr.strip()[-500:]}")

    def _start(self) -> None:
        command = [str(self._binaries / "postgres"), "-D", str(self.folder / "data")]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._identity,
            )
        import psycopg

        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                psycopg.connect(self.conninfo).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_end = (self.folder / "log").read_text(errors="replace")[-500:]
                    raise PostgresFailed(f"postgres: {error}: {log_end}") from error
            threading.Event().wait(POLL_SECONDS)

    def stop(self) -> None:
        """End the server: at once for its clients, cleanly for its books."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            try:
                process.wait(STOP_SECONDS_MAX)
                return
            except subprocess.TimeoutExpired:
                continue
        raise PostgresFailed(f"the server with pid {process.pid} does not end")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of one statement over a connection of its own, which waits for any lock."""
        import psycopg

        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute("set lock_timeout = 0")
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def open_books(self, accounts: int) -> None:
        """The tables, the function, and accounts 1 .. `accounts`."""
        self.execute(TABLES)
        self.execute(FUNCTION)
        self.execute(f"insert into accounts (id) select generate_series(1, {accounts})")
        self.execute("vacuum analyze")

    def settle(self) -> None:
        """What the last arm left to be done is done before the next one begins."""
        self.execute("vacuum accounts")
        self.execute("checkpoint")

    def books(self) -> tuple[int, int, int]:
        """(transfers, debits posted, credits posted) as the tables have them."""
        ((transfers,),) = self.execute("select count(*) from transfers")
        sums = "select sum(debits_posted)::bigint, sum(credits_posted)::bigint from accounts"
        ((debits, credits),) = self.execute(sums)
        return transfers, debits, credits

    def facts(self) -> dict[str, str]:
        """The version and every setting that a paying session has, as the server tells it."""
        import psycopg

        quiet = ("listen_addresses", "unix_socket_directories", "log_min_messages")
        names = ["server_version", *(name for name in self._settings if name not in quiet)]
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            rows = {name: connection.execute(f"show {name}".encode()).fetchone() for name in names}
        return {name: row[0] for name, row in rows.items() if row is not None}
