"""The slow scrub: all that is damaged is named, once, and the rest is read on; the server tells it.

Journals are real; damage is changed bytes of the file, or a library that fails a read.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lmdb
import pytest

import ledger
from chaos import shim
from chaos.altered import altered
from chaos.process import Server
from ledger.facts import limits
from ledger.host import server as server_module
from ledger.host.runner import LoopRunner
from ledger.journal import _check, group
from ledger.journal.journal import Journal
from ledger.journal.reader import data_path
from ledger.journal.scrub import Scrub
from tests.support.book_calls import account, pay, rows
from tests.support.sealing_parts import flip_payment

ROOT = Path(__file__).resolve().parents[2]
GROUPS = 12
ALL = 1 << 40


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Groups 1 to 12 at the least, with the payments 1000, 1001 .. one in each."""
    directory = tmp_path / "book"
    with ledger.open(directory) as one:
        one.create_accounts([account(1), account(2)])
        for id in range(1000, 1000 + GROUPS):
            one.create_transfers(rows(range(id, id + 1)))
    return directory


def scrubbed(directory: Path) -> list[str]:
    with Journal.open(directory) as opened:
        found, ended = Scrub(opened).step(ALL)
    assert ended
    return found


def group_of(directory: Path, id: int) -> int:
    """The group that holds the payment."""
    wanted = id.to_bytes(16, "little")
    with Journal.open(directory, readonly=True) as opened:
        return next(header.group for header, body in opened.read() if wanted in bytes(body))


def test_a_sound_journal_is_read_in_steps_again_and_again(book: Path) -> None:
    with Journal.open(book) as opened:
        scrub, seen = Scrub(opened), []
        for _ in range(2):
            ended = False
            while not ended:
                seen.append(scrub.group)
                found, ended = scrub.step(2 * 4096)
                assert found == []
            assert scrub.group == 1
        half = len(seen) // 2
        assert seen[:half] == seen[half:] == list(range(1, opened.group + 1, 2))


def test_what_is_appended_meanwhile_is_read_too(book: Path) -> None:
    with ledger.open(book) as one:
        scrub = Scrub(one._parts.journal)
        assert scrub.step(4096) == ([], False)
        before = one._parts.journal.group
        one.create_transfers(rows(range(5000, 5100)))
        assert one._parts.journal.group > before
        assert scrub.step(ALL) == ([], True)


def test_damage_is_told_once_and_passed_over(book: Path) -> None:
    wrong = [group_of(book, id) for id in (1002, 1008)]
    for id in (1002, 1008):
        flip_payment(book, id)
    with Journal.open(book) as opened:
        scrub = Scrub(opened)
        found, ended = scrub.step(ALL)
        assert ended and len(found) == 2
        for number, why in zip(wrong, found, strict=True):
            assert why.startswith(f"group {number}") and "block 0 check failed" in why
        assert scrub.step(ALL) == ([], True)
        again = Scrub(opened)
        assert again.step(ALL) == (found, True)


def test_a_group_that_is_whole_and_another_is_told_by_its_digest(book: Path) -> None:
    number = group_of(book, 1005)
    with Journal.open(book, readonly=True) as opened:
        _, body = opened.one(number)
    changed = bytearray(body)
    at = changed.index((1005).to_bytes(16, "little")) + 96
    changed[at] ^= 1  # its user data: every check is made anew, the digest is not
    path = str(data_path(book).parent)
    with lmdb.open(path, map_size=1 << 30) as environment, environment.begin(write=True) as writer:
        key = number.to_bytes(8, "big")
        value = bytearray(writer.get(key))
        value[group.HEADER_BYTES :] = bytes(changed) + _check.blocks(bytes(changed), number)
        assert len(value) == len(writer.get(key))
        writer.put(key, bytes(value))
    [why] = scrubbed(book)
    assert why.startswith(f"group {number + 1}") and "another digest" in why


UNREAD = """
import sys
from pathlib import Path
from chaos import shim
from ledger.journal.journal import Journal
from ledger.journal.scrub import Scrub
with Journal.open(Path(sys.argv[1])) as journal:
    scrub = Scrub(journal)
    print(scrub.step(4096))
    shim.switch(Path(sys.argv[2]), "pread from:1 eio /data.mdb")
    print(scrub.step(4096))
    shim.switch(Path(sys.argv[2]))
    print(scrub.step(1 << 40))
"""


def test_a_sector_that_cannot_be_read_is_told(book: Path, tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.touch()
    done = subprocess.run(
        [sys.executable, "-c", UNREAD, book, control], cwd=ROOT, capture_output=True, text=True,
        env=shim.environment(book, control=control) | {"PYTHONPATH": str(ROOT)}, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "([], False)", "(['group 2: cannot be read: Input/output error'], False)", "([], True)",
    ]  # fmt: skip


def test_a_server_says_what_rotted_and_serves_on(
    server: Callable[..., Server], tmp_path: Path, book: Path
) -> None:
    number = group_of(book, 1003)
    served = server(book, env=altered(tmp_path, SCRUB_SECONDS=0.01, SCRUB_REST_SECONDS=0.01))
    with ledger.Client(served.address) as client:
        assert len(client.lookup_transfers([1003])) == 1
        flip_payment(book, 1003)
        served.wait_line(f"damaged: group {number}")
        assert client.create_transfers([pay(9000)])["status"][0] == ledger.TransferStatus.CREATED
    assert served.terminate() == 0


def test_a_step_that_fails_is_not_the_last(
    book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once, and the journal is read on."""
    warnings: list[str] = []
    steps = 0
    over = asyncio.Event()

    def step(self: Scrub, bytes_max: int) -> tuple[list[str], bool]:
        nonlocal steps
        steps += 1
        if steps < 4:
            raise OSError("no memory for a moment")
        return ["group 7"], True

    def warn(text: str) -> None:
        warnings.append(text)
        if "group 7" in text:
            over.set()

    async def run(journal: Journal) -> None:
        served = server_module._Server(book, None, False, None, warn)
        runner = LoopRunner()
        parts = SimpleNamespace(journal=journal)
        watch = asyncio.create_task(served._scrub(parts, runner))  # type: ignore[arg-type]
        await over.wait()
        watch.cancel()
        await asyncio.to_thread(runner.stop)

    monkeypatch.setattr(Scrub, "step", step)
    monkeypatch.setattr(limits, "SCRUB_RETRY_SECONDS", 0.0)
    with Journal.open(book) as journal:
        asyncio.run(run(journal))
    assert [text.partition(":")[0] for text in warnings] == [
        "the journal could not be read again, and will be", str(book),
    ]  # fmt: skip
