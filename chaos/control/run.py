"""The scenario row-locks: a sale with a hot merchant on PostgreSQL and on the ledger, side by side.

PostgreSQL is asked first for the most it carries with payments spread over all accounts, with the
best of several pools. Then, at 80% of that, the share of one merchant is turned on: what changes is
the lock and nothing else, and again the best pool counts. Both systems then get the sale's rate.
The two never run at the same time. PostgreSQL's figures are figures; only the ledger can break the
scenario.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from chaos import strict
from chaos.control import ours, postgres
from chaos.control.arm import DEADLINE_SECONDS, Arm, table
from chaos.control.load import Payments, Pool, payments_count
from chaos.control.postgres import Postgres
from chaos.scenario import FORMAT, Refused, Strict
from chaos.verdict import Verdict

TIER = "process"
DISK = Path("/var/tmp")  # a disk where the usual folder for scratch may be memory
LOCK_RATE_SHARE = 0.8  # of PostgreSQL's own uniform maximum
SALE_RATE = 100_000
OWN_RATE_SHARE = 0.8  # of the ledger's own maximum, when that does not carry the sale
OWN_TRIES_MAX = 3
SEARCH_SECONDS_MAX = 5.0  # of each run that looks for a maximum
IDS_EACH_ARM = 10**12
ACCOUNTS_MIN, POOL_MAX = 2, 1_000

Say = Callable[[str], None]


class Head(Strict):
    """[scenario]: what it is."""

    name: str
    format: int
    tier: str
    about: str
    expect: Literal["survive"]


class Control(Strict):
    """[control]: `seconds` is of each arm; a `wide_pool` of 0 leaves that arm out.

    `rate` "peak" is 100,000 a second where the ledger carries it on this machine, otherwise the
    highest that it sustains; the figures say which.
    """

    seconds: float = 10.0
    accounts: int = 10_000
    hot_share: float = 0.3
    pools: tuple[int, ...] = (16, 32, 64)
    wide_pool: int = 400
    rate: float | Literal["peak"] = "peak"
    lock_timeout_seconds: float = 1.0


class Scenario(Strict):
    scenario: Head
    control: Control = msgspec.field(default_factory=Control)


def read(path: Path) -> Scenario:
    """The scenario in a file. Refused says what is wrong with it."""
    found = strict.read(path, Scenario)
    head, control = found.scenario, found.control
    if head.format != FORMAT:
        raise Refused(f"{path}: format {head.format}, this software reads {FORMAT}")
    if head.tier != TIER:
        raise Refused(f"{path}: the control arm is of the tier {TIER}, not {head.tier!r}")
    for name, well in (
        ("seconds", 0.5 <= control.seconds <= 600),
        ("accounts", ACCOUNTS_MIN < control.accounts <= 10_000_000),
        ("hot_share", 0 < control.hot_share <= 1),
        ("pools", control.pools and all(0 < size <= POOL_MAX for size in control.pools)),
        ("wide_pool", 0 <= control.wide_pool <= POOL_MAX),
        ("rate", control.rate == "peak" or 1 <= float(control.rate) <= 1e7),
        ("lock_timeout_seconds", 0.001 <= control.lock_timeout_seconds <= 600),
    ):
        if not well:
            raise Refused(f"{path}: {name}: {getattr(control, name)} cannot be")
    return found


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on a disk, which another user may pass through, and which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="row-locks-", dir=DISK if DISK.is_dir() else None))
    try:
        folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(path: Path, seed: int, out: Path, on_progress: Say | None = None) -> Verdict:
    """The scenario in the file `path`; its picture and figures go to a folder below `out`."""
    scenario = read(path)
    verdict = Verdict(
        scenario=scenario.scenario.name,
        seed=seed,
        tier=TIER,
        expected="the ledger loses nothing and times nothing out at either rate, and its books"
        " verify; PostgreSQL's figures stand beside",
    )
    verdict.skipped = postgres.missing()
    if verdict.skipped is not None:
        return verdict
    with scratch_folder() as scratch:
        sale = _Sale(scenario.control, seed, scratch, on_progress or (lambda _: None))
        try:
            sale.go()
        except postgres.PostgresFailed as error:
            verdict.broken = sale.broken
            if not sale.broken:
                verdict.skipped = f"PostgreSQL could not be used: {error}"
            return verdict
        sale.figures["scratch_disk"] = _file_system(scratch)
    verdict.broken = sale.broken
    verdict.figures = sale.figures
    verdict.seen = sale.seen()
    _report(verdict, sale, out)
    return verdict


def judged(own: ours.Ours) -> list[tuple[str, str]]:
    """What breaks the scenario in an arm of the ledger at a rate that it must carry."""
    arm, broken = own.arm, list(own.broken)
    if arm.timed_out:
        what = f"{arm.timed_out:,} of {arm.offered:,} payments timed out at {arm.rate:,.0f}/s"
        broken.append(("live", what))
    return broken


class _Sale:
    """The arms in their order."""

    def __init__(self, control: Control, seed: int, scratch: Path, say: Say) -> None:
        self.control = control
        self.seed = seed
        self.scratch = scratch
        self.say = say
        self.arms: list[Arm] = []
        self.searched: list[Arm] = []
        self.broken: list[tuple[str, str]] = []
        self.figures: dict[str, Any] = {}
        self.search_seconds = min(control.seconds, SEARCH_SECONDS_MAX)
        self.ids = 0

    def go(self) -> None:
        share = f"{self.control.hot_share:.0%} to one merchant"
        rate, own_at_sale = self.own_at_sale(share)
        self.broken += judged(own_at_sale)
        lock_rate = self.postgres(share, rate)
        own = self.own(share, lock_rate)
        self.broken += judged(own)
        self.arms.insert(-1, own.arm)
        self.arms.append(own_at_sale.arm)
        self.figures |= {
            "table": "\n" + table(self.arms),
            "searched": "\n" + table(self.searched),
            "postgresql_time_outs": "".join(
                f"\n{arm.name}, {arm.rate:,.0f}/s, pool of {arm.pool}: {arm.why()}"
                for arm in (*self.arms, *self.searched)
                if arm.system == "PostgreSQL" and arm.rate
            ),
            "ledger_records_verified": own.verified + own_at_sale.verified,
        }

    # ---- ours -----------------------------------------------------------------------------------

    def own(self, share: str, rate: float, seconds: float | None = None) -> ours.Ours:
        self.say(f"ledger, {share}, {f'{rate:,.0f}/s' if rate else 'closed loop'}")
        return ours.pay(
            self.scratch,
            share,
            seed=self.seed,
            rate=rate,
            seconds=seconds or self.control.seconds,
            accounts=self.control.accounts,
            share=self.control.hot_share,
        )

    def own_at_sale(self, share: str) -> tuple[float, ours.Ours]:
        """The sale's rate and the ledger's arm at it; a peak comes down to what is sustained."""
        if self.control.rate != "peak":
            self.figures["sale_rate"] = f"{self.control.rate:,.0f}/s, as the scenario says"
            return self.control.rate, self.own(share, self.control.rate)
        closed = self.own(share, 0.0, self.search_seconds)
        self.broken += closed.broken
        self.searched.append(closed.arm)
        rate = min(SALE_RATE, max(1.0, OWN_RATE_SHARE * closed.arm.done_per_second))
        for left in reversed(range(OWN_TRIES_MAX)):
            rate = float(round(rate, -3) if rate > 10_000 else round(rate))
            found = self.own(share, rate)
            if not found.arm.timed_out or not left:
                break
            self.broken += found.broken
            self.searched.append(found.arm)
            rate *= OWN_RATE_SHARE
        told = "which the ledger carries here"
        if rate < SALE_RATE:
            told = f"the highest found that the ledger sustains here; {SALE_RATE:,}/s is more"
        self.figures["sale_rate"] = f"{rate:,.0f}/s, {told}"
        return rate, found

    # ---- PostgreSQL -----------------------------------------------------------------------------

    def postgres(self, share: str, sale_rate: float) -> float:
        """PostgreSQL's arms; the rate at which the lock was shown."""
        control = self.control
        binaries = postgres.find()
        assert binaries is not None, "asked for by missing()"
        widest = max(*control.pools, control.wide_pool)
        with Postgres(binaries, self.scratch, control.lock_timeout_seconds, widest) as server:
            server.open_books(control.accounts)
            uniform_pool, most = self.search(server)
            rate = float(max(1, int(LOCK_RATE_SHARE * most)))
            self.arms.append(self.pay(server, "uniform", uniform_pool, rate, 0.0))
            hot = self.hot(server, share, rate)
            self.arms.append(hot)
            if control.wide_pool:
                wide = self.pay(server, share, control.wide_pool, rate, control.hot_share)
                self.arms.append(wide)
            self.arms.append(self.pay(server, share, hot.pool, sale_rate, control.hot_share))
            self.facts(server, uniform_pool, most)
        return rate

    def hot(self, server: Postgres, share: str, rate: float) -> Arm:
        """The arm with the lock in it, with the pool that times out least."""
        control = self.control
        found = [self.pay(server, share, pool, rate, control.hot_share) for pool in control.pools]
        best = min(found, key=lambda arm: arm.timed_out)
        self.searched += [arm for arm in found if arm is not best]
        return best

    def search(self, server: Postgres) -> tuple[int, float]:
        """The best pool and its payments a second, spread; and what one merchant alone gets."""
        seconds = self.search_seconds
        self.pay(server, "warming up", self.control.pools[0], 0.0, 0.0, min(seconds, 2.0))
        found = [
            self.pay(server, "uniform", pool, 0.0, 0.0, seconds) for pool in self.control.pools
        ]
        best = max(found, key=lambda arm: arm.done_per_second)
        alone = self.pay(server, "all to one merchant", best.pool, 0.0, 1.0, seconds)
        self.searched += [*found, alone]
        return best.pool, best.done_per_second

    def pay(
        self, server: Postgres, name: str, pool: int, rate: float, share: float,
        seconds: float | None = None,
    ) -> Arm:  # fmt: skip
        control = self.control
        seconds = seconds or control.seconds
        self.say(f"PostgreSQL, {name}, {f'{rate:,.0f}/s' if rate else 'closed loop'}, pool {pool}")
        server.settle()
        self.ids += 1
        count = payments_count(rate, seconds)
        first_id = self.ids * IDS_EACH_ARM
        payments = Payments(self.seed, first_id, count, control.accounts, share)
        before, _, _ = server.books()
        with Pool(server.conninfo, pool) as connections:
            arm = connections.run(name, payments, rate, seconds)
        after, debits, credits = server.books()
        if after - before != arm.done or not debits == credits == after:
            told = f"{after - before} of {arm.done} done, debits {debits}, credits {credits}"
            raise postgres.PostgresFailed(f"the control arm's books are wrong: {told}")
        return arm

    def facts(self, server: Postgres, pool: int, most: float) -> None:
        from psycopg import pq

        facts = server.facts()
        client = f"psycopg {pq.__impl__}, libpq {pq.version()}, one process, nothing pipelined"
        self.figures |= {
            "postgresql_uniform_maximum": f"{most:,.0f}/s with a pool of {pool}",
            "postgresql": ", ".join(f"{name} = {value}" for name, value in facts.items()),
            "postgresql_client": client,
            "statement": f"{postgres.STATEMENT}{postgres.TABLES}{postgres.FUNCTION}".rstrip(),
            "deadline": f"{DEADLINE_SECONDS:.0f} s from when a payment was due",
            "seconds_each_arm": self.control.seconds,
            "accounts": self.control.accounts,
            "ledger_client": f"{ours.CONNECTIONS} connections of {ours.SESSIONS} sessions,"
            " one payment a request",
        }

    # ---- what it came to ------------------------------------------------------------------------

    def seen(self) -> str:
        """Who timed out how much, at each rate."""
        return "; ".join(
            f"{arm.title()}, {arm.rate:,.0f}/s: {arm.timed_out_share:.1%} timed out"
            for arm in self.arms
        )


def _file_system(path: Path) -> str:
    """The kind of file system that a path is on."""
    best, kind = "", "unknown"
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, place, found, *_ = line.split()
        if path.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def _report(verdict: Verdict, sale: _Sale, out: Path) -> None:
    """The folder with the picture, the figures and the arms."""
    folder = out / f"{verdict.scenario}-{verdict.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    verdict.report = str(folder)
    data = msgspec.to_builtins(verdict)
    data["arms"] = msgspec.to_builtins([*sale.arms, *sale.searched])
    encoded = msgspec.json.format(msgspec.json.encode(data), indent=2)
    (folder / "verdict.json").write_bytes(encoded + b"\n")
    try:
        from chaos.control import picture

        title = (
            f"{sale.control.hot_share:.0%} of payments to one merchant,"
            f" {sale.control.accounts:,} accounts, {sale.control.seconds:.0f} s each,"
            f" deadline {DEADLINE_SECONDS:.0f} s"
        )
        picture.draw(folder / "control.png", title, sale.arms)
    except ImportError as error:
        verdict.figures["picture"] = f"none: {error}"
