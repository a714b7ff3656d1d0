"""Books on disk for tests: groups written by a bare core, as they are or altered on purpose.

What lives here: the way from the generator's requests, or a few plain payments, to a journal, and
the way to put a changed record into one so that only what the record says is wrong. It knows how
groups are laid out, not what is wrong with an altered one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from chaos.core_driver import NOW, Driver
from chaos.generate import Generator
from ledger.facts import limits, schema
from ledger.journal.body import DTYPES
from ledger.journal.group import Group, Header, read_group, write_group
from ledger.journal.head_stamp import Checkpoint
from ledger.journal.journal import Journal

Groups = list[tuple[dict[str, int], bytes]]
Run = tuple[int, np.ndarray]  # kind, records
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = 7


def account(id: int, ledger: int = 1, code: int = 10, **fields: int) -> schema.Account:
    return schema.Account(id=id, ledger=ledger, code=code, **fields)


def transfer(id: int, debit: int = 1, credit: int = 2, amount: int = 100, **fields: int):
    fields = {"ledger": 1, "code": 1, **fields}
    return schema.Transfer(
        id=id, debit_account_id=debit, credit_account_id=credit, amount=amount, **fields
    )


class Writer:
    """A bare core that has begun a book."""

    def __init__(self, now: int = NOW, group_records_max: int = 200) -> None:
        self.driver = Driver(group_records_max=group_records_max)
        self.driver.core.start(now, now, limits.RELEASE)
        self.now = now

    def accounts(self, *accounts: schema.Account) -> list[str]:
        rows = schema.pack_accounts(accounts)
        return self._create(schema.Operation.CREATE_ACCOUNTS, rows, schema.AccountStatus)

    def transfers(self, *transfers: schema.Transfer) -> list[str]:
        rows = schema.pack_transfers(transfers)
        return self._create(schema.Operation.CREATE_TRANSFERS, rows, schema.TransferStatus)

    def _create(self, operation, rows, statuses) -> list[str]:
        self.now += 1000
        [results] = self.driver.execute(operation, [rows.tobytes()], self.now)[1]
        found = np.frombuffer(results, schema.CREATE_RESULT)["status"]
        return [statuses(status).name for status in found.tolist()]

    def wait(self, seconds: float) -> None:
        self.now += int(seconds * 10**9)
        self.driver.core.expire(self.now)

    def groups(self) -> Groups:
        self.driver.close_group()
        return self.driver.groups


def generated(seed: int, requests: int, group_records_max: int = 200) -> Groups:
    """The groups of the generator's first requests of a seed."""
    writer = Writer(1, group_records_max)
    for operation, batches, now in itertools.islice(Generator(seed), requests):
        writer.driver.execute(operation, batches, now)
    return writer.groups()


def paid(payments: int = 20, group_records_max: int = 200) -> Groups:
    """A small book with a bit of everything: limits, holds of each outcome, a burned id."""
    writer = Writer(group_records_max=group_records_max)
    flags = schema.AccountFlags
    writer.accounts(
        account(1),
        account(2, flags=int(flags.DEBITS_MUST_NOT_EXCEED_CREDITS | flags.HISTORY)),
        account(3),
        account(4, ledger=2),
    )
    kinds = schema.TransferFlags
    for place in range(payments):
        id = 1000 + 10 * place
        writer.transfers(transfer(id), transfer(id + 1, 1, 3, 2**64 + place))
        timeout = 5 if place % 4 == 3 else 0
        hold = transfer(id + 2, 3, 1, 50, flags=int(kinds.PENDING), timeout=timeout)
        writer.transfers(hold, transfer(id + 3, 2, 1, 10**30))
        if place % 4 == 3:
            writer.wait(6)
        elif place % 4 < 2:
            flag = kinds.POST_PENDING_TRANSFER if place % 4 else kinds.VOID_PENDING_TRANSFER
            amount = 20 if place % 4 else 0
            end = schema.Transfer(id=id + 4, pending_id=id + 2, amount=amount, flags=int(flag))
            writer.transfers(end)
    return writer.groups()


def write(directory: Path, groups: Groups, cluster: int = CLUSTER) -> Path:
    """A book that holds `groups`."""
    first, *others = (
        Group(body, **{name: value for name, value in fields.items() if name != "group"})
        for fields, body in groups
    )
    Journal.create(directory, cluster, first)
    with Journal.open(directory) as journal:
        for group in others:
            journal.append(journal.position, group)
    return directory


def headers(groups: Groups) -> Iterator[tuple[Header, np.ndarray]]:
    """Header and body of each group, as a reader would have them."""
    value = np.zeros(limits.GROUP_VALUE_BYTES_MAX, np.uint8)
    previous = None
    for fields, body in groups:
        named = {name: value for name, value in fields.items() if name != "group"}
        number = fields["group"]
        whole = write_group(value, CLUSTER, number, bytes(32), Group(body, **named))[2]
        previous, _ = read_group(whole, number, CLUSTER, previous)
        yield previous, np.frombuffer(body, np.uint8)


def places(groups: Groups, kind: schema.JournalKind) -> list[tuple[int, int, int]]:
    """(index of the group, offset in its body, position) of each record of `kind`."""
    found = []
    size = DTYPES[kind].itemsize
    for index, (fields, body) in enumerate(groups):
        at, position = 0, fields["position_first"]
        while at < len(body):
            run = np.frombuffer(body, schema.RUN, 1, at)[0]
            at += schema.RUN.itemsize
            if run["kind"] == kind:
                found += [
                    (index, at + record * size, position + record) for record in range(run["count"])
                ]
            position += int(run["count"])
            at += int(run["bytes"])
    return found


def alter(
    groups: Groups, kind: schema.JournalKind, which: int, changes: dict[str, object]
) -> tuple[Groups, int]:
    """The same groups with fields of one record of a kind changed, and the record's position."""
    index, offset, position = places(groups, kind)[which]
    fields, body = groups[index]
    changed = bytearray(body)
    record = np.frombuffer(changed, DTYPES[kind], 1, offset)
    for name, value in changes.items():
        record[name][0] = value
    return [*groups[:index], (fields, bytes(changed)), *groups[index + 1 :]], position


def rearranged(groups: Groups, change: Callable[[list[Run]], list[Run]]) -> Groups:
    """The one group there is, with its runs changed and its header counting what is left."""
    [(fields, body)] = groups
    runs: list[Run] = []
    at = 0
    while at < len(body):
        run = np.frombuffer(body, schema.RUN, 1, at)[0]
        at += schema.RUN.itemsize
        dtype = DTYPES[schema.JournalKind(int(run["kind"]))]
        runs.append((int(run["kind"]), np.frombuffer(body, dtype, run["count"], at)))
        at += int(run["bytes"])
    runs = change(runs)
    written = b""
    for kind, records in runs:
        header = np.zeros(1, schema.RUN)
        header["kind"], header["version"], header["count"] = kind, 1, len(records)
        header["bytes"] = len(records.tobytes()) + 15 & -16
        written += header.tobytes() + records.tobytes().ljust(int(header["bytes"][0]), b"\0")
    count = sum(len(records) for _, records in runs)
    return [({**fields, "position_count": count, "run_count": len(runs)}, written)]


def stamp(directory: Path, journal: Journal) -> None:
    """Say in `directory` that the end of `journal` was durable."""
    with Checkpoint(directory) as checkpoint:
        checkpoint.write(journal.cluster, journal.group, journal.position, journal.digest())


def at_group(directory: Path, number: int, name: str) -> dict[str, str]:
    """An environment whose processes send themselves a signal when they read a group."""
    hook = f"""
import os, signal
from ledger.journal import reader as reading
read = reading.Reading.read
def hooked(self, *arguments, **named):
    for header, body in read(self, *arguments, **named):
        if header.group == {number}:
            os.kill(os.getpid(), signal.{name})
        yield header, body
reading.Reading.read = hooked
"""
    place = directory / "hook"
    place.mkdir()
    (place / "sitecustomize.py").write_text(hook)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}
