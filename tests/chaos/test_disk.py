"""Tests of the disk tier: what a disk may hold, images of a real book, mutants that are found."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import ledger
from chaos import cli, disk, disk_mutants, shim
from chaos.altered import configured
from chaos.disk_check import Promise
from chaos.disk_model import Disk, Plan, moments, plans
from chaos.disk_worker import Checked, Crash, Job, Worker
from chaos.shim import Op, Record
from tests.support.book_calls import account, pay

ROOT = Path(__file__).resolve().parents[2]
FOLDER, FILE = 1, 2  # inodes of what the model tests make
SECTOR = 512


def test_no_image_of_a_book_is_broken() -> None:
    told: list[tuple[int, int]] = []
    report = disk.run(7, 310, lambda done, wanted: told.append((done, wanted)))
    assert report.clean, report.found
    assert report.images >= 300 and report.again >= 50
    assert told[-1] == (report.images, 310)


@pytest.mark.parametrize(
    ("mutant", "kind", "images"),
    [
        ("no sync at start", "durable", 150),
        ("a book is created in its place", "refused", 150),
        ("a folder of column files is not synced", "sealed", 150),
    ],
)
def test_a_mutant_is_found(mutant: str, kind: str, images: int, tmp_path: Path) -> None:
    """One of each kind of file; `make mutants` tries all there are, and a disk that lies."""
    assert mutant in disk_mutants.MUTANTS
    report = disk.run(7, images, mutant=mutant)
    assert report.kinds.get(kind, 0) > 0, report.kinds
    assert report.found[0].why
    if mutant == "no sync at start":
        path = tmp_path / "FAILURE.json"
        disk.keep(report, report.found[-1], path)
        assert disk.replay(path) == report.found[-1]
        replayed = CliRunner().invoke(cli.main, ["replay", str(path)])
        assert replayed.exit_code == 1 and replayed.output.startswith("durable: ")
        assert CliRunner().invoke(cli.main, ["shrink", str(path)]).exit_code == 2


def test_the_command_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "few.toml"
    head = 'name = "few"\nformat = 1\ntier = "disk"\nabout = "a few images"\n'
    path.write_text(f"[scenario]\n{head}[disk]\nimages = 40\n")
    arguments = ["run", str(path), "--seed", "9", "--json", "--out", str(tmp_path)]
    ran = CliRunner().invoke(cli.main, arguments)
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.output)
    assert report["scenario"] == "few" and report["violations"] == 0 and report["images"] >= 30


def test_a_machine_that_cannot_build_the_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise FileNotFoundError("cc")

    monkeypatch.setattr(shim, "built", refuse)
    ran = CliRunner().invoke(cli.main, ["run", "crash-images", "--seed", "1"])
    assert ran.exit_code == 0 and "skipped" in ran.output and "cc" in ran.output


def test_a_seed_is_the_same_run_every_time() -> None:
    script = "from chaos import disk; print(disk.run(3, 40, mutant='no sync at start', jobs=1))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.partition("seconds")[0]
        for seed in ("1", "2")
    }
    assert len(runs) == 1 and "traces=['" in runs.pop()


def test_who_dies_of_an_image_is_a_finding(tmp_path: Path) -> None:
    worker = Worker(Job(str(tmp_path / "work"), 1, [], 0))
    crash = Crash(0, Plan(frozenset(), False), {}, Promise())

    def check(number: int, image: int, crash: Crash, twice: bool) -> Iterator[Checked]:
        if image == 11:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Checked(image, 0, False, "")

    worker._check = check  # type: ignore[method-assign]
    batch = worker._batch(0, 10, [crash] * 3, [])
    assert batch.images == 3
    [found] = batch.found
    assert found.image == 11 and found.why.endswith("SIGKILL")


# ---- the model ----------------------------------------------------------------------------------


class Written:
    """The model of an empty folder, and calls on one file in it."""

    def __init__(self, path: Path) -> None:
        self.disk = Disk(path)
        self.inode = path.stat().st_ino
        self.do(Op.CREATE, at=self.inode, data=b"f", inode=FILE)

    def do(
        self, op: Op, at: int = 0, data: bytes = b"", inode: int = FILE, durable: bool = False,
        returned: bool = True,
    ) -> None:  # fmt: skip
        record = Record(op, durable, inode, at, data)
        self.disk.issue(record)
        if returned:
            self.disk.settle(record)

    def sync(self) -> None:
        self.do(Op.SYNC)
        self.do(Op.SYNC, inode=self.inode)

    def images(self) -> set[bytes | None]:
        """What the file may hold; None where it is not there."""
        found = plans(self.disk, random.Random(1))
        return {self.disk.image(plan).get("f") for plan in found}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_an_entry_may_be_lost_until_its_folder_is_synced(written: Written) -> None:
    assert written.images() == {None, b""}
    written.do(Op.SYNC, inode=written.inode)
    assert written.images() == {b""}


def test_sectors_of_a_write_come_in_any_order_and_sizes_before_bytes(written: Written) -> None:
    written.sync()
    written.do(Op.WRITE, data=b"a" * SECTOR + b"b")
    zeros = bytes(SECTOR)
    whole = b"a" * SECTOR + b"b"
    assert written.images() == {
        b"", b"a" * SECTOR, whole, zeros + b"b", zeros + b"\0", b"a" * SECTOR + b"\0",
    }  # fmt: skip
    written.do(Op.SYNC, returned=False)
    assert len(written.images()) == 6
    written.sync()
    assert written.images() == {whole}


def test_a_sector_holds_what_memory_held_at_some_moment(written: Written) -> None:
    written.do(Op.WRITE, data=b"one")
    written.sync()
    written.do(Op.WRITE, data=b"t")
    written.do(Op.WRITE, at=1, data=b"w")
    assert written.images() == {b"one", b"tne", b"twe"}


def test_a_write_that_syncs_itself_is_certain_and_no_other(written: Written) -> None:
    written.do(Op.WRITE, data=bytes(2 * SECTOR))
    written.sync()
    written.do(Op.WRITE, data=b"a")
    written.do(Op.WRITE, at=SECTOR, data=b"b", durable=True, returned=False)
    assert len(written.images()) == 4
    written.do(Op.WRITE, at=SECTOR, data=b"b", durable=True)
    images = [image for image in written.images() if image is not None]
    assert len(images) == 2 and all(image[SECTOR : SECTOR + 1] == b"b" for image in images)


def test_of_a_cut_file_a_first_part_of_its_changes_is_there(written: Written) -> None:
    written.do(Op.WRITE, data=b"old text")
    written.sync()
    written.do(Op.TRUNCATE)
    written.do(Op.WRITE, data=b"new")
    assert written.images() == {b"old text", b"", b"new"}


def test_a_rename_happens_at_once_or_not(written: Written) -> None:
    written.do(Op.WRITE, data=b"x")
    written.sync()
    written.do(Op.RENAME, at=written.inode, inode=written.inode, data=b"f\0g")
    found = [written.disk.image(plan) for plan in plans(written.disk, random.Random(1))]
    assert sorted(map(sorted, found)) == [["f"], ["g"]]


def test_more_changes_than_can_be_tried_are_sampled(written: Written) -> None:
    written.sync()
    for place in range(40):
        written.do(Op.WRITE, at=place * SECTOR, data=bytes([place]) * SECTOR)
    found = plans(written.disk, random.Random(1))
    assert found == plans(written.disk, random.Random(1)) != plans(written.disk, random.Random(2))
    sizes = {len(plan.kept) for plan in found}
    assert {0, 1, 39, 40} <= sizes and 20 < len(found) < 100
    assert Plan(frozenset(), True) in found


# ---- the recording ------------------------------------------------------------------------------


def test_a_recording_is_what_the_disk_holds(tmp_path: Path) -> None:
    """All calls that change a disk, through the library; with nothing lost the model has it all."""
    watched, record = tmp_path / "watched", tmp_path / "record"
    watched.mkdir()
    model = Disk(watched)
    script = """if True:
        import os, pathlib, shutil, sys
        place = pathlib.Path(sys.argv[1])
        (place / "a" / "b").mkdir(parents=True)
        (place / "a" / "b" / "gone").write_text("gone")
        (place / "kept").write_bytes(b"0123456789" * 200)
        (place / "kept").rename(place / "renamed")
        fd = os.open(place / "renamed", os.O_RDWR)
        os.pwrite(fd, b"xyz", 600)
        os.writev(fd, [b"first", b"second"])
        os.pwritev(fd, [b"third"], 1990)
        os.ftruncate(fd, 1992)
        os.posix_fallocate(fd, 0, 3000)
        os.fsync(fd)
        os.close(fd)
        os.close(os.open(place / "empty", os.O_CREAT | os.O_WRONLY))
        (place / "c").mkdir()
        (place / "c" / "file").write_text("old")
        (place / "c" / "file").write_text("new")
        (place / "c" / "removed").touch()
        (place / "c" / "removed").unlink()
        shutil.rmtree(place / "a")
        """
    environment = shim.environment(watched, record=record)
    subprocess.run([sys.executable, "-c", script, watched], env=environment, check=True)
    records = list(shim.recorded(record))
    for _, state in moments(model, records):
        everything = frozenset(c.number for node in state.changing() for c in node.pending)
        last = state.image(Plan(everything, False))
    paths = {path: path.relative_to(watched).as_posix() for path in watched.rglob("*")}
    assert last == {
        name: None if path.is_dir() else path.read_bytes() for path, name in paths.items()
    }
    assert set(Op) - {record.op for record in records} == {Op.MARK}


def test_what_a_kill_left_half_written_is_not_told(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.touch()
    shim.mark(record, b"one")
    shim.mark(record, b"two")
    whole = record.read_bytes()
    assert [one.data for one in shim.recorded(record)] == [b"one", b"two"]
    record.write_bytes(whole[:-1])
    assert [one.data for one in shim.recorded(record)] == [b"one"]


@pytest.mark.parametrize("rule", ["pwrite 1 kill-after", "pwrite 1 kill", "pwrite 1 lie"])
def test_a_call_that_is_cut_off_is_not_known_to_be_on_disk(tmp_path: Path, rule: str) -> None:
    watched, record = tmp_path / "watched", tmp_path / "record"
    watched.mkdir()
    script = """if True:
        import os, sys
        fd = os.open(sys.argv[1] + "/f", os.O_CREAT | os.O_RDWR | os.O_DSYNC)
        os.pwrite(fd, b"a", 0)
        os.pwrite(fd, b"b", 1)
        """
    environment = shim.environment(watched, rule, record=record)
    subprocess.run([sys.executable, "-c", script, watched], env=environment, check=False)
    writes = [(one.durable, one.data) for one in shim.recorded(record) if one.op is Op.WRITE]
    expected = {"kill-after": [(False, b"a")], "kill": [], "lie": [(True, b"b")]}
    assert writes == expected[rule.split()[-1]]


# ---- calls on some files only --------------------------------------------------------------------

CALLS = """if True:
    import os, sys
    place = sys.argv[1]
    def tried(call, *arguments):
        try:
            call(*arguments)
        except OSError as error:
            print(call.__name__, name, error.errno, flush=True)
    files = {}
    for name in ("other", "chosen"):
        files[name] = os.open(f"{place}/{name}", os.O_CREAT | os.O_RDWR)
        tried(os.write, files[name], b"written")
        tried(os.pread, files[name], 3, 0)
        tried(os.fsync, files[name])
    for name in files:
        tried(os.unlink, f"{place}/{name}")
    """


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("unlink 1 eio", ["unlink other 5"]),
        ("unlink 1 eio /chosen", ["unlink chosen 5"]),
        ("unlink 2 eio /chosen", []),
        ("unlink from:1 enospc", ["unlink other 28", "unlink chosen 28"]),
        ("pread 1 eio /chosen", ["pread chosen 5"]),
        ("all 0 eio /nothing", []),
        ("write,fsync from:2 enospc /chosen", ["fsync chosen 28"]),
    ],
)
def test_a_rule_may_be_for_some_files_only(tmp_path: Path, rule: str, said: list[str]) -> None:
    control = tmp_path / "control"
    shim.switch(control, rule)
    (tmp_path / "watched").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", CALLS, tmp_path / "watched"], capture_output=True, text=True,
        env=shim.environment(tmp_path / "watched", control=control), check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines() == said


def test_reads_are_not_among_all_calls(tmp_path: Path) -> None:
    control = tmp_path / "control"
    shim.switch(control, "all from:3 eio /chosen")  # its open, its write
    (tmp_path / "watched").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", CALLS, tmp_path / "watched"], capture_output=True, text=True,
        env=shim.environment(tmp_path / "watched", control=control), check=True,
    )  # fmt: skip
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["fsync", "unlink"]


LEFTOVERS = """if True:
    import sys
    from pathlib import Path
    from ledger.history.segments import History
    from ledger.journal.journal import Journal
    book = Path(sys.argv[1])
    with Journal.open(book) as journal:
        History(book, journal).close()
    """


def test_a_start_removes_nothing_before_names_are_durable(tmp_path: Path) -> None:
    """A merge that was killed may have its name in memory only, and its inputs on the disk."""
    watched, record = tmp_path / "watched", tmp_path / "record"
    watched.mkdir()
    small = {"WINDOW_EVENTS": 2, "MERGED_AT_ONCE": 2}
    with configured(small), ledger.open(watched / "book") as book:
        book.create_accounts([account(1), account(2)])
        for id in range(1, 9):
            book.create_transfers([pay(id)])
    state = watched / "book" / "state"
    (state / ".segment-0-0.creating").touch()
    environment = shim.environment(watched, record=record) | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", LEFTOVERS, watched / "book"], env=environment, check=True
    )
    records = list(shim.recorded(record))
    removed = [number for number, one in enumerate(records) if one.op is Op.REMOVE]
    folder = state.stat().st_ino
    synced = [n for n, one in enumerate(records) if one.op is Op.SYNC and one.inode == folder]
    assert removed and synced and synced[0] < removed[0]
