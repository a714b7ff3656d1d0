"""One sale from its first payment to its verdict, and the report that is left of it.

The server is the real command in a process of its own, the payers are another; this one makes the
trouble at its moments, ends the server, has the book verified, and judges. A broken run leaves a
file that holds the whole scenario, so that it can be run again without the one it came from.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from chaos import failure
from chaos.draw import Draw
from chaos.sale import checks, picture, scenario, timeline
from chaos.sale.paying import TRANSFERS, Payer
from chaos.sale.scenario import PEAK, PEAK_RATE, SaleScenario
from chaos.sale.scenario import read as read
from chaos.sale.stage import Mark, Stage
from chaos.sale.trouble import Trouble
from chaos.scenario import FORMAT, Refused
from chaos.verdict import Verdict
from ledger.facts.limits import Exit
from ledger.load.report import LATE_NS

TOLD_SECONDS = 1.0
POLL_SECONDS = 0.005
BEGIN_SECONDS_MAX = 60.0
AFTER_SECONDS_MAX = 180.0  # looking everything up, and waiting for what is late
CALIBRATION_SECONDS = 2.0
CLOSED_LOOPS = 2
TRY_SHARES = (0.85, 0.7, 0.55, 0.4)  # of what a closed loop carries
KEPT_UP_SHARE = 0.98  # of what is due, else the rate is not sustained
Tell = Callable[[str], None]


class Failure(msgspec.Struct, kw_only=True):
    """FAILURE-<name>-<seed>.json. `rate` is what "peak" was on that machine, else null."""

    format: int
    scenario: SaleScenario
    seed: int
    commit: str
    rate: float | None
    broken: list[tuple[str, str]]


def run(
    path_or_scenario: Path | SaleScenario,
    seed: int,
    out: Path,
    on_progress: Tell | None = None,
) -> Verdict:
    """Run a sale; the report is below `out`. Refused says what is wrong with its file."""
    given = path_or_scenario
    sale = given if isinstance(given, SaleScenario) else read(given)
    return _run(sale, seed, out, on_progress or (lambda text: None), None)


def replay(failure_file: Path) -> Verdict:
    """Run a failure again, with the load it had then; its report goes beside the file."""
    found = _failure(failure_file)
    return _run(found.scenario, found.seed, failure_file.parent, lambda text: None, found.rate)


def is_failure(path: Path) -> bool:
    """Whether the file was left by a broken sale."""
    try:
        _failure(path)
    except Refused:
        return False
    return True


def _failure(path: Path) -> Failure:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        found = msgspec.convert(plain, Failure)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise Refused(f"{path}: {error}") from error
    if found.format != FORMAT:
        raise Refused(f"{path}: format {found.format}, this software reads {FORMAT}")
    scenario.of(plain["scenario"], path)
    return found


def _run(sale: SaleScenario, seed: int, out: Path, tell: Tell, rate: float | None) -> Verdict:
    head = sale.scenario
    verdict = Verdict(scenario=head.name, seed=seed, tier=head.tier)
    verdict.skipped = next(filter(None, (fault.missing() for fault in sale.fault)), None)
    if verdict.skipped is not None:
        return verdict
    with tempfile.TemporaryDirectory(prefix="chaos-sale-") as place:
        stage = Stage(Path(place), Draw(seed, head.name))
        try:
            one = Sale(sale, seed, stage, tell, rate)
            one.run()
        finally:
            stage.close()
    verdict.expected = one.expected()
    verdict.seen = "; ".join(stage.seen)
    verdict.broken, verdict.figures = stage.broken, stage.figures
    report = out / f"{head.name}-{seed}"
    report.mkdir(parents=True, exist_ok=True)
    verdict.report = str(report)
    if stage.broken:
        verdict.file = str(out / f"FAILURE-{head.name}-{seed}.json")
        found = Failure(
            format=FORMAT, scenario=sale, seed=seed, commit=failure.commit(), rate=one.rate,
            broken=stage.broken,
        )  # fmt: skip
        _write(Path(verdict.file), found)
    _report(report, verdict, timeline.drawn(stage.payers, stage.marks))
    return verdict


def _report(report: Path, verdict: Verdict, drawn: timeline.Timeline) -> None:
    why = picture.missing()
    if why is None:
        held = "held" if verdict.held else f"BROKEN: {verdict.broken[0][0]}"
        figures = verdict.figures
        line = (
            f"{held} · offered {figures['offered']:,}, accepted {figures['accepted']:,}, refused"
            f" {figures['refused']:,}, unanswered {figures['unanswered']:,}"
        )
        title = f"{verdict.scenario} (seed {verdict.seed})"
        picture.draw(drawn, title, line, report / "timeline.png")
    else:
        verdict.figures["picture"] = f"none: {why}"
    _write(report / "timeline.json", drawn)
    _write(report / "verdict.json", verdict)


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(msgspec.to_builtins(data), indent=1) + "\n", encoding="utf-8")


class Sale:
    """One run on a stage."""

    def __init__(
        self, sale: SaleScenario, seed: int, stage: Stage, tell: Tell, rate: float | None
    ) -> None:
        self.sale, self.seed, self.stage = sale, seed, stage
        self.rate = rate if sale.load.rate == PEAK else sale.load.rate
        self._tell_to = tell
        self._told = 0.0

    def expected(self) -> str:
        head, said = self.sale.scenario, [fault.EXPECTS for fault in self.sale.fault]
        common = "nothing acknowledged is lost, doubled or changed"
        if head.expect == "survive" or not said:
            common += f", payments again within {head.rto_max_seconds:g} s"
        return "; ".join([*dict.fromkeys(filter(None, said)), common])

    def run(self) -> None:
        stage = self.stage
        for fault in self.sale.fault:
            fault.prepare(stage)
        stage.raise_server()
        if self.sale.load.rate == PEAK and self.rate is None:
            self.rate = self._peak()
        if self.sale.compare is None:
            self._pay_once()
        else:
            self._compare()
        self._finish()
        self._judge()

    # ---- paying ---------------------------------------------------------------------------------

    def _options(self, seed: int, address: str, **others: Any) -> Any:
        options = self.sale.options(address, seed, self.rate)
        return msgspec.structs.replace(options, **others)

    def _peak(self) -> float:
        """The rate of the peak: what is asked of every machine, or the most that this one sustains.

        A closed loop on a book of its own says what can be carried at all; then open loops of less
        and less of it are tried until one keeps up.
        """
        server = self.stage.another_server(self.stage.place / "calibration").start()
        closed = max(self._try(server.address, None, turn) for turn in range(CLOSED_LOOPS))
        sustained = 0.0
        for turn, share in enumerate(TRY_SHARES, CLOSED_LOOPS):
            asked = min(PEAK_RATE, round(closed * share, -2))
            if self._try(server.address, asked, turn) >= KEPT_UP_SHARE * asked:
                sustained = asked
                break
        server.close()
        self.stage.figures |= {
            "peak_asked_per_second": int(PEAK_RATE),
            "peak_sustained_here_per_second": int(sustained),
            "closed_loop_per_second": int(closed),
        }
        if not sustained:
            self.stage.broken.append(("scenario", "no rate was sustained in the calibration"))
        return sustained or TRY_SHARES[-1] * closed

    def _try(self, address: str, rate: float | None, turn: int) -> float:
        """Payments a second that are answered in time."""
        self._tell(f"calibrating: {'closed loop' if rate is None else f'{rate:,.0f}/s'}")
        options = self._options(
            self.seed + turn, address, rate=rate, check=False,
            duration_seconds=CALIBRATION_SECONDS,
        )  # fmt: skip
        payer = Payer(options, "calibration")
        try:
            payer.wait(lambda: payer.done, BEGIN_SECONDS_MAX)
            report = payer.report
        finally:
            payer.close()
        if report is None or not report.ok:
            return 0.0
        in_time = report.accepted - report.latency.late
        return in_time / max(report.seconds, CALIBRATION_SECONDS)

    def _pay_once(self) -> None:
        stage = self.stage
        options = self._options(self.seed, stage.address)
        payer = stage.pay(options, "the sale")
        for fault in self.sale.fault:
            fault.joined(stage, options)
        if not payer.wait(lambda: bool(payer.begun_ns), BEGIN_SECONDS_MAX):
            stage.broken.append(("live", f"no payment was made: {payer.error}"))
            return
        self._drive(payer)
        deadline = time.monotonic() + AFTER_SECONDS_MAX
        while not all(one.done for one in stage.payers) and time.monotonic() < deadline:
            self._watch(payer)

    def _drive(self, payer: Payer) -> None:
        """Begin and end each trouble at its moment."""
        stage, order = self.stage, iter(range(1 << 20))
        moments: list[tuple[int, int, Callable[[], None]]] = []
        waiting = [fault for fault in self.sale.fault if fault.TIMED and fault.after]

        def at(moment_ns: int, act: Callable[[], None]) -> None:
            heapq.heappush(moments, (moment_ns, next(order), act))

        def begin(fault: Trouble) -> None:
            mark = stage.mark(fault.name)
            fault.begin(stage)
            at(mark.begun_ns + int(fault.for_seconds * 1e9), lambda: end(fault, mark))

        def end(fault: Trouble, mark: Mark) -> None:
            mark.ended_ns = time.monotonic_ns()
            fault.end(stage)
            for other in [one for one in waiting if one.after == fault.id]:
                waiting.remove(other)
                moment = time.monotonic_ns() + int(other.delay_seconds * 1e9)
                at(moment, lambda other=other: begin(other))  # type: ignore[misc]

        for fault in self.sale.fault:
            if fault.at_seconds is not None:
                moment = payer.begun_ns + int(fault.at_seconds * 1e9)
                at(moment, lambda fault=fault: begin(fault))  # type: ignore[misc]
        while moments:
            moment, _, act = heapq.heappop(moments)
            while time.monotonic_ns() < moment:
                self._watch(payer)
            act()

    def _watch(self, payer: Payer) -> None:
        self.stage.notice()
        step = payer.steps[-1]
        phase = "paying" if step.phase == TRANSFERS else f"looking everything up ({step.phase})"
        seconds = (time.monotonic_ns() - payer.begun_ns) / 1e9
        self._tell(f"{phase}: {seconds:.0f} s, {step.accepted:,} accepted")
        threading.Event().wait(POLL_SECONDS)

    def _tell(self, text: str) -> None:
        if time.monotonic() - self._told > TOLD_SECONDS:
            self._told = time.monotonic()
            self._tell_to(f"{self.sale.scenario.name}: {text}")

    def _compare(self) -> None:
        """Pay in turns, and say how the rates relate."""
        stage, compare = self.stage, self.sale.compare
        assert compare is not None
        changes = compare.changes()
        rates: dict[str, list[float]] = {}
        named = {
            name: (getattr(self.sale.load, name), value) for name, value in changes.items()
        }
        own = ", ".join(f"{name} {one}" for name, (one, _) in named.items())
        other = ", ".join(f"{name} {one}" for name, (_, one) in named.items())
        for number in range(2 * compare.rounds):
            label, options = (own, {}) if number % 2 == 0 else (other, changes)
            asked = self._options(self.seed + number, stage.address, **options)
            mark = stage.mark(label)
            payer = stage.pay(asked, f"{label}, turn {number // 2 + 1}")
            payer.wait(lambda payer=payer: payer.done, AFTER_SECONDS_MAX)  # type: ignore[misc]
            mark.begun_ns, mark.ended_ns = payer.begun_ns, time.monotonic_ns()
            stage.notice()
            if payer.report is not None:
                rates.setdefault(label, []).append(payer.report.payments_per_second)
        if len(rates) == 2 and len(rates[own]) == len(rates[other]):
            first, second = (median(rates[label]) for label in (own, other))
            ratios = [one / two for one, two in zip(rates[own], rates[other], strict=True)]
            ratio = median(ratios)
            stage.figures |= {
                f"payments_per_second ({own})": [int(one) for one in rates[own]],
                f"payments_per_second ({other})": [int(one) for one in rates[other]],
                "ratio_of_each_turn": [round(one, 2) for one in ratios],
                "ratio": round(ratio, 2),
            }
            stage.seen.append(
                f"{first:,.0f} payments/s with {own}, {second:,.0f} with {other} (medians);"
                f" ratio of a turn {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )

    # ---- afterwards -----------------------------------------------------------------------------

    def _finish(self) -> None:
        """End the server, have the book read by another process, look at what is stopped."""
        stage = self.stage
        stage.notice()
        self.serves = stage.server.exit_code is None
        self._told = 0.0
        self._tell("verifying the book")
        if self.serves:
            stage.is_down = True
            code = stage.server.terminate()
            stage.figures["exit_code"] = int(code)
            if code != Exit.OK:
                stage.broken.append(("live", f"SIGTERM ended the server with {code}"))
        code, stage.facts, told = stage.ask("verify")
        counted = not stage.rolled_back
        stage.broken += checks.book(code, stage.facts, told, stage.payers, counted)
        for fault in self.sale.fault:
            fault.stopped(stage)

    def _judge(self) -> None:
        stage, head = self.stage, self.sale.scenario
        gave_up = stage.rolled_back or (stage.gave_up and head.expect == "fail-stop")
        if not stage.rolled_back:
            stage.broken += checks.payments(stage.payers, gave_up)
        stage.broken += checks.expectation(
            head.expect, failed_stop=stage.failed_stop, refused=stage.refused,
            serves=self.serves, rolled_back=stage.rolled_back,
        )  # fmt: skip
        figures = dict(self._figures())
        stage.figures = figures | stage.figures
        if self.sale.compare is None and stage.payers and not gave_up:
            self._judge_time()
        stage.seen.append(
            f"{figures['accepted']:,} acknowledged and {figures['looked_up']:,} of them looked up"
        )

    def _judge_time(self) -> None:
        stage, most = self.stage, self.sale.scenario.rto_max_seconds
        phases = timeline.Phases(stage.payers[0], stage.marks)
        stage.figures |= phases.figures()
        if not stage.marks:
            return
        if phases.rto_seconds is None:
            stage.broken.append(("live", "no payment was acknowledged after the trouble's end"))
            return
        stage.figures["rto_seconds"] = round(phases.rto_seconds, 2)
        settled = phases.settled_seconds
        told = "not in this sale" if settled is None else round(settled, 2)
        stage.figures["settled_seconds"] = told
        if phases.rto_seconds > most:
            what = f"payments again after {phases.rto_seconds:.2f} s, at most {most:g}"
            stage.broken.append(("live", what))

    def _figures(self) -> Iterator[tuple[str, Any]]:
        """What every sale tells, all payers together."""
        stage = self.stage
        reports = [one.report for one in stage.payers if one.report is not None]
        sent, overdue = sum(one.sent for one in reports), sum(one.overdue for one in reports)
        unanswered = sum(one.unanswered for one in reports)
        yield "offered", sent + overdue
        yield "accepted", sum(one.accepted for one in reports)
        yield "refused", sum(sum(one.refused.values()) for one in reports)
        yield "unanswered", unanswered
        yield "due_and_never_sent", overdue
        late = sum(one.latency.late for one in reports)
        yield f"answered_after_over_{LATE_NS // 10**9}_s", late
        yield "looked_up", sum(one.found for one in reports)
        yield "resent", sum(one.resent for one in reports)
        yield "reconnects", sum(one.reconnects for one in reports)
        if self.rate is not None:
            yield "rate_asked_per_second", int(self.rate)
        if reports:
            yield "accepted_per_second", int(reports[0].payments_per_second)
            yield "longest_pause_seconds", round(reports[0].longest_pause_seconds, 2)
        if stage.restarts_seconds:
            yield "restart_seconds", [round(one, 2) for one in stage.restarts_seconds]
