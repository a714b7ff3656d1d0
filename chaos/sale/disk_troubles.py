"""Troubles of the disk below the book: full, slow, failing, without power, or with rotten bits."""

from __future__ import annotations

import shutil
import subprocess

from chaos import shim
from chaos.machine import ext4
from chaos.sale.stage import Stage
from chaos.sale.trouble import Trouble
from chaos.small_disk import CREATES_WAIT, SmallDisk
from ledger.facts.limits import Exit

STOP_SECONDS_MAX = 5.0
START_SECONDS_MAX = 30.0
SPACE_SECONDS_MAX = 5.0
REFUSES = "what would create is not taken"


def _no_fault_library() -> str | None:
    try:
        shim.built()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the fault library cannot be built: {error}"
    return None


class FillDisk(Trouble, tag="fill-disk", kw_only=True):
    """A small file system is filled until `left_bytes` are left; the space returns."""

    left_bytes: int = CREATES_WAIT

    EXPECTS = (
        "while there is no space payments wait and nothing stops; with the space they go through"
    )

    def prepare(self, stage: Stage) -> None:
        if stage.small_disk is None:
            stage.small_disk = SmallDisk(stage.place)
            stage.closing.callback(stage.small_disk.end)
            stage.directory = stage.small_disk.directory / "book"
            stage.env |= stage.small_disk.env
        self.disk = stage.small_disk

    def begin(self, stage: Stage) -> None:
        self.disk.fill(self.left_bytes)

    def end(self, stage: Stage) -> None:
        if not stage.wait_for_line(REFUSES, SPACE_SECONDS_MAX):
            stage.broken.append(("bounded", f"the server never said that {REFUSES}"))
        self.disk.free()
        kind = "a tmpfs" if self.disk.is_real else "the server was told so; no file system here"
        stage.seen.append(f"full for {self.for_seconds:.1f} s ({kind}), and the server said so")


class SlowDisk(Trouble, tag="slow-disk", kw_only=True):
    """Every sync takes `delay_ms` longer."""

    delay_ms: int

    EXPECTS = "a slow disk makes payments slow and loses none"

    def missing(self) -> str | None:
        return _no_fault_library()

    def prepare(self, stage: Stage) -> None:
        stage.watch_disk()

    def begin(self, stage: Stage) -> None:
        stage.disk_rule(f"sync 0 delay:{self.delay_ms}")

    def end(self, stage: Stage) -> None:
        stage.disk_rule()
        stage.seen.append(f"each sync took {self.delay_ms} ms longer for {self.for_seconds:.1f} s")


class FailDisk(Trouble, tag="fail-disk", kw_only=True):
    """The next sync fails with EIO. The server is started again `for_seconds` later, on a disk that
    works, unless it failed `for_good`.
    """

    for_good: bool = False

    EXPECTS = (
        f"after a failed sync the server ends with {Exit.IO_ERROR:d} and no reply has left that"
        " speaks of what is not on disk; with a disk that works it has all that was acknowledged"
    )

    def missing(self) -> str | None:
        return _no_fault_library()

    def prepare(self, stage: Stage) -> None:
        stage.watch_disk()
        stage.wants_relay = True

    def begin(self, stage: Stage) -> None:
        stage.disk_rule("sync 0 eio" if self.for_good else "sync 1 eio")
        if stage.expect_end(Exit.IO_ERROR, STOP_SECONDS_MAX):
            stage.seen.append(f"exit {Exit.IO_ERROR:d}: {stage.server.log[-1]}")
        check_line(stage)

    def end(self, stage: Stage) -> None:
        if not self.for_good:
            stage.disk_rule()
            stage.restart()
            return
        stage.server.begin()
        code = stage.server.wait()
        stage.gave_up = True
        stage.seen.append(f"the disk stayed broken: the next start ended with {code}")


class CutPower(Trouble, tag="cut-power", kw_only=True):
    """The power of the file system is cut under load and is back `for_seconds` later."""

    EXPECTS = (
        "a power cut leaves all that was acknowledged: no reply left that speaks of more than the"
        " file system has when it is back"
    )

    def missing(self) -> str | None:
        return ext4.missing()

    def prepare(self, stage: Stage) -> None:
        if stage.power is None:
            stage.power = stage.closing.enter_context(ext4.Ext4(stage.place))
            stage.directory = stage.power.directory / "book"
            stage.wants_relay = True
        self.disk = stage.power

    def begin(self, stage: Stage) -> None:
        self.disk.cut()
        if stage.expect_end(Exit.IO_ERROR, STOP_SECONDS_MAX):
            stage.seen.append(f"the power was cut: exit {Exit.IO_ERROR:d}")
        elif stage.server.exit_code is None:
            stage.kill()

    def end(self, stage: Stage) -> None:
        self.disk.mount_again()
        check_line(stage)
        stage.restart()


def check_line(stage: Stage) -> None:
    """No reply that went through the relay names a position beyond the journal's durable end."""
    assert stage.relay is not None
    code, facts, told = stage.ask("inspect")
    if code != Exit.OK:
        stage.broken.append(("durable", f"inspect ended with {code}: {told}"))
        return
    said, durable = stage.relay.position_max, int(facts["position"])
    if said > durable:
        what = f"a reply named position {said}, the journal ends at {durable}"
        stage.broken.append(("behind-the-line", what))
    stage.seen.append(f"the last reply named position {said}, the journal ends at {durable}")


class FlipBits(Trouble, tag="flip-bits", kw_only=True):
    """`count` times one drawn bit of the journal's file is turned in a copy of the stopped book."""

    count: int

    EXPECTS = (
        "each flipped bit is named by verify and refused by a start, or lies in unused space and"
        " changes nothing"
    )
    TIMED = False

    def stopped(self, stage: Stage) -> None:
        size = (stage.directory / "journal" / "data.mdb").stat().st_size
        state_hash = stage.facts.get("state_hash", "")
        found = {"named": 0, "refused at start": 0, "in unused space": 0}
        for n in range(self.count):
            bit = stage.draw.between(0, size * 8 - 1, "flip-bits", n)
            self._flip(stage, bit, state_hash, found)
        told = ", ".join(f"{count} {what}" for what, count in found.items())
        stage.seen.append(f"{self.count} flipped bits in {size:,} bytes: {told}")
        stage.figures["bits_flipped"] = self.count
        stage.figures["bits_named"] = found["named"]

    def _flip(self, stage: Stage, bit: int, state_hash: str, found: dict[str, int]) -> None:
        copy = stage.place / "rotten"
        shutil.copytree(stage.directory, copy)
        with (copy / "journal" / "data.mdb").open("r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
        code, facts, _ = stage.ask("verify", copy)
        what = f"bit {bit % 8} of byte {bit // 8}"
        if code == Exit.OK and facts["state_hash"] == state_hash:
            found["in unused space"] += 1
        elif code == Exit.OK:
            stage.broken.append(("chain", f"{what} changed the state, and verify says clean"))
        else:
            found["named"] += 1
            server = stage.another_server(copy)
            server.begin()
            stage.until(lambda: server.serves or server.exit_code is not None, START_SECONDS_MAX)
            if server.serves:
                stage.broken.append(("chain", f"{what} is named by verify and served all the same"))
            else:
                found["refused at start"] += 1
            server.close()
        shutil.rmtree(copy)
