"""Each source of faults that needs the machine's leave does what it says, to a small real program.

Where this machine does not allow one, its reason must be one that a person can act on: that is
what is asserted then, so that no test here passes without having looked at something.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import ModuleType

import pytest

from chaos import shim
from chaos.machine import cgroup, command, ext4, faketime, limits, pidspace, tunlink
from chaos.process import Server
from ledger.facts.limits import Exit
from ledger.facts.schema import Operation
from tests.support.machines import can, python, readable
from tests.support.raw import Closed, accounts, opened, posted, serves, transfers, with_accounts

SOURCES = [cgroup, ext4, faketime, limits, pidspace, tunlink]
MIB = 1 << 20
NS = 10**9
DAY_NS = 24 * 3600 * NS


# ---- what is missing ----------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_machine_says_what_it_has(
    source: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    can(source)
    assert left_behind(tmp_path) == [], "the question leaves nothing behind"


def left_behind(place: Path) -> list[str]:
    """What lies or is mounted in the folder, and control groups with this process's number."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    groups = Path("/sys/fs/cgroup").glob(f"**/chaos-{os.getpid()}-*")
    mine = [line for line in mounts if f" {place}/" in line]
    return [*mine, *map(str, groups), *map(str, place.iterdir())]


@pytest.mark.parametrize("source", [ext4, tunlink], ids=lambda source: source.__name__)
def test_a_machine_without_the_tools_says_which(
    source: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.ENVIRONMENT, "PATH", str(tmp_path))
    reason = source.missing()
    assert readable(reason) and ("not installed" in reason or "/dev/net/tun" in reason), reason


def test_a_machine_without_libfaketime_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (faketime.missing() is None) == (faketime.shared_object() is not None)
    monkeypatch.setattr(faketime, "_FOLDERS", ())
    assert faketime.missing() == "stepped wall clock: libfaketime.so.1 is not installed"


def test_what_the_machine_refuses_is_one_line() -> None:
    reason = command.why_not("a thing", lambda: command.run("sh", "-c", "echo no >&2; exit 3"))
    assert reason == "a thing: sh: no"
    reason = command.why_not("a thing", lambda: os.open("/proc/none", os.O_RDONLY))
    assert reason == "a thing: /proc/none: No such file or directory"
    assert command.why_not("a thing", lambda: None) is None
    with pytest.raises(command.Refused, match=r"waited 0 s for the moon"):
        command.until("the moon", lambda: False, 0.0)


# ---- a power cut --------------------------------------------------------------------------------

WRITER = """
import errno, os, sys
def write(name, data, sync):
    descriptor = os.open(f"{sys.argv[1]}/{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, data)
    if sync:
        os.fsync(descriptor)
    return descriptor
synced = write("synced", b"x" * 6000, True)
write("loose", b"y" * 8000, False)
print("written")
input()
try:
    os.write(synced, b"z" * 4096)
    os.fsync(synced)
    print("kept")
except OSError as error:
    print(errno.errorcode[error.errno])
input()
"""


def test_a_power_cut_keeps_what_was_synced(tmp_path: Path) -> None:
    if not can(ext4):
        return
    with ext4.Ext4(tmp_path, 32 * MIB) as disk, python(WRITER, str(disk.directory)) as writer:
        assert writer.hear() == "written"
        assert (disk.directory / "loose").stat().st_size == 8000, "seen while the power is there"
        disk.cut()
        assert writer.ask() == "EIO"
        writer.end()
        disk.mount_again()
        kept = {path.name: path.read_bytes() for path in disk.directory.iterdir() if path.is_file()}
        assert kept["synced"] == b"x" * 6000
        assert "loose" not in kept, "not even its name: the journal was not flushed"
        (disk.directory / "more").write_bytes(b"works on")
    assert list(tmp_path.iterdir()) == []


def test_the_power_does_not_come_back_under_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can(ext4):
        return
    monkeypatch.setattr(ext4, "UNMOUNT_SECONDS_MAX", 0.05)
    with ext4.Ext4(tmp_path, 32 * MIB) as disk, python(WRITER, str(disk.directory)) as writer:
        writer.hear()
        disk.cut()
        with pytest.raises(command.Refused, match="the last user of"):
            disk.mount_again()
    assert not disk.directory.exists()


def test_a_server_survives_power_cuts(tmp_path: Path) -> None:
    if not can(ext4):
        return
    with ext4.Ext4(tmp_path) as disk, contextlib.closing(Server(disk.directory / "book")) as server:
        acknowledged = 0
        for cuts in range(3):
            server.start()
            peer, session = with_accounts(server.address)
            with peer:
                assert posted(peer, session) >= acknowledged
                for number in range(20):
                    rows = transfers(1 + cuts * 100 + number, 1)
                    session.ask(peer, Operation.CREATE_TRANSFERS, rows)
                acknowledged = posted(peer, session)
                assert acknowledged >= (cuts + 1) * 20
                disk.cut()
                with pytest.raises(Closed):
                    session.ask(peer, Operation.CREATE_TRANSFERS, transfers(99 + cuts * 100, 1))
            assert server.wait() == Exit.IO_ERROR
            disk.mount_again()
        server.start()
        peer, session = opened(server.address)
        with peer:
            assert posted(peer, session) >= acknowledged == 60
        assert server.terminate() == Exit.OK


# ---- memory, and freezing -----------------------------------------------------------------------

EATER = """
kept = []
while line := input():
    kept.append(bytearray(b"x") * int(line))
    print("ate")
"""


def test_the_oom_killer_ends_who_eats_too_much() -> None:
    if not can(cgroup):
        return
    with cgroup.Group(48 * MIB) as group, python(EATER, prefix=group.prefix()) as eater:
        assert eater.ask(str(8 * MIB)) == "ate"
        assert 8 * MIB < group.memory_bytes() < 48 * MIB
        assert group.oom_kills() == 0
        assert eater.ask(str(80 * MIB)) == ""
        assert eater.process.wait(10) == -signal.SIGKILL
        assert group.oom_kills() == 1


def test_a_frozen_group_does_nothing_until_it_thaws() -> None:
    if not can(cgroup):
        return
    with cgroup.Group() as group, python(EATER) as eater:
        eater.ask("1")
        group.add(eater.process.pid)
        group.freeze()
        assert eater.process.stdin is not None and eater.process.stdout is not None
        eater.process.stdin.write("1\n")
        eater.process.stdin.flush()
        assert select.select([eater.process.stdout], [], [], 0.1)[0] == [], "nothing is said"
        group.thaw()
        assert eater.hear() == "ate"


def test_a_group_ends_with_its_members_even_frozen(tmp_path: Path) -> None:
    if not can(cgroup):
        return
    with contextlib.ExitStack() as stack:
        with cgroup.Group() as group:
            eater = stack.enter_context(python(EATER, prefix=group.prefix()))
            eater.ask("1")
            group.freeze()
        assert eater.process.wait(10) == -signal.SIGKILL
    assert left_behind(tmp_path) == []


def test_a_server_that_the_oom_killer_ends_comes_back(tmp_path: Path) -> None:
    if not can(cgroup):
        return
    with cgroup.Group() as group:
        server = Server(tmp_path / "book", prefix=group.prefix())
        with contextlib.closing(server):
            server.start()
            assert serves(server.address)
            # Room for what it has and a little more: it ends in the middle of its work.
            group.limit(group.memory_bytes() + 4 * MIB)
            peer, session = opened(server.address)
            with peer, contextlib.suppress(Closed):
                for first in range(1, 400_000, 8000):
                    session.ask(peer, Operation.CREATE_ACCOUNTS, accounts(first, 8000))
            assert server.wait() == -signal.SIGKILL
            assert group.oom_kills() == 1
            group.limit(1024 * MIB)
            assert serves(server.start().address)


# ---- another time -------------------------------------------------------------------------------

CLOCKS = """
import time
while True:
    input()
    print(time.time_ns(), time.monotonic_ns())
"""


def test_a_wall_clock_is_stepped_while_a_process_runs(tmp_path: Path) -> None:
    if not can(faketime):
        return
    with faketime.SteppedClock(tmp_path) as clock, python(CLOCKS, env=clock.env()) as child:
        for step_ns, expected_ns in ((0, 0), (DAY_NS, DAY_NS), (-3 * DAY_NS, -2 * DAY_NS)):
            clock.step(step_ns)
            wall, monotonic = map(int, child.ask().split())
            assert clock.offset_ns == expected_ns
            assert abs(wall - time.time_ns() - expected_ns) < 2 * NS
            assert abs(monotonic - time.monotonic_ns()) < 2 * NS
        clock.set(-NS // 2)
        wall = int(child.ask().split()[0])
        assert abs(wall - time.time_ns() + NS // 2) < NS // 4
    shared = list(Path("/dev/shm").glob(f"*faketime_*_{child.process.pid}"))
    assert shared == left_behind(tmp_path) == [], "the memory of a killed process too"


def test_a_server_serves_while_its_clock_jumps(tmp_path: Path) -> None:
    """Steps do not enter the stamps; with the fault library beside it, both are in force."""
    if not can(faketime):
        return
    control = tmp_path / "control"
    control.touch()
    book = tmp_path / "book"
    faults = shim.environment(book, control=control)
    with (
        faketime.SteppedClock(tmp_path) as clock,
        contextlib.closing(Server(book, env=clock.env(faults))) as server,
    ):
        server.start()
        peer, session = with_accounts(server.address)
        with peer:
            stamps = []
            for number, step_ns in enumerate((0, DAY_NS, -2 * DAY_NS), 1):
                clock.step(step_ns)
                rows = session.ask(peer, Operation.CREATE_TRANSFERS, transfers(number, 1))
                stamps.append(int(rows["timestamp"][0]))
            assert stamps == sorted(stamps)
            assert all(abs(stamp - time.time_ns()) < 60 * NS for stamp in stamps)
            shim.switch(control, "sync 1 eio")
            with pytest.raises(Closed):
                session.ask(peer, Operation.CREATE_TRANSFERS, transfers(9, 1))
        assert server.wait() == Exit.IO_ERROR


# ---- limits -------------------------------------------------------------------------------------

OPENER = """
import errno, os
held = []
while True:
    input()
    before = len(held)
    try:
        while len(held) < 1000:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(errno.errorcode[error.errno], "after", len(held) - before)
    os.close(held.pop())
"""
GROWER = """
import errno, signal, sys
if sys.argv[2] == "ignore":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
else:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
file = open(sys.argv[1], "ab", buffering=0)
try:
    while True:
        file.write(bytes(1000))
except OSError as error:
    print(errno.errorcode[error.errno], file.tell())
"""


def test_a_process_runs_out_of_descriptors() -> None:
    if not can(limits):
        return
    with python(OPENER, prefix=limits.prefix(files_max=30)) as child:
        assert child.ask() == "EMFILE after 27"


def test_a_running_process_is_squeezed_and_let_go() -> None:
    if not can(limits):
        return
    with python(OPENER, prefix=limits.prefix(files_max=50)) as child:
        assert child.ask() == "EMFILE after 47"
        before = resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE)
        with limits.squeezed(child.process.pid, files_max=20, file_bytes_max=5):
            assert child.ask() == "EMFILE after 0"
            assert resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE)[0] == 5
        assert child.ask() == "EMFILE after 2", "what was closed twice"
        assert resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE) == before


@pytest.mark.parametrize("ignores", ["ignore", "die"])
def test_a_file_that_may_not_grow(tmp_path: Path, ignores: str) -> None:
    if not can(limits):
        return
    prefix = limits.prefix(file_bytes_max=10_500)
    path = tmp_path / "grown"
    with python(GROWER, str(path), ignores, prefix=prefix) as child:
        assert child.hear() == ("EFBIG 10500" if ignores == "ignore" else "")
        code = child.process.wait(10)
        assert code == (0 if ignores == "ignore" else -signal.SIGXFSZ)
    assert path.stat().st_size == 10_500


def test_a_limited_process_dies_of_what_its_wrapper_ignores() -> None:
    if not can(limits):
        return
    for name in ("XFSZ", "PIPE"):
        words = [*limits.prefix(files_max=30), "sh", "-c", f"kill -s {name} $$"]
        assert subprocess.run(words).returncode == -signal.Signals[f"SIG{name}"]


def test_a_server_whose_files_may_not_grow_stops(tmp_path: Path) -> None:
    if not can(limits):
        return
    with contextlib.closing(Server(tmp_path / "book")) as server:
        server.start()
        peer, session = with_accounts(server.address)
        with peer, limits.squeezed(server.pid, file_bytes_max=4096), pytest.raises(Closed):
            session.ask(peer, Operation.CREATE_TRANSFERS, transfers(1, 1))
        assert server.wait() == Exit.IO_ERROR
        assert serves(server.start().address)


def test_injectors_join(tmp_path: Path) -> None:
    """Few descriptors, little memory, behind a link, and still one process with one id."""
    if not all(map(can, (cgroup, limits, tunlink))):
        return
    with tunlink.Link(11, delay_ms=(1, 2)) as link, cgroup.Group(512 * MIB) as group:
        prefix = [*link.server_prefix(), *group.prefix(), *limits.prefix(files_max=200)]
        server = Server(tmp_path / "book", prefix=prefix, allow_plaintext=True)
        server.address = f"{link.address}:0"
        with contextlib.closing(server):
            server.start()
            assert group._members() == {server.pid}
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (200, 200)
            assert serves(server.address)
            assert server.terminate() == Exit.OK
