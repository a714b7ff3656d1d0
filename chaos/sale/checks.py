"""What must be true after a sale, whatever went wrong in it; none of it rests on the server's word.

The payers know what they sent and looked all of it up; the book is added up offline, by a process
of its own. Each finding is an invariant's name and what was seen. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ledger.facts.limits import Exit
from ledger.load.report import Report

Finding = tuple[str, str]
BY_FAULT = {
    "missing": "durable",
    "not_found": "durable",
    "different": "durable",
    "accounts_missing": "durable",
    "accounts_different": "conserved",
    "accounts_refused": "live",
    "unbalanced": "conserved",
    "duplicate_faults": "one-effect",
    "reply_faults": "original-reply",
}


class Paid(Protocol):
    """What a payer came to."""

    name: str
    error: str
    report: Report | None


def payments(payers: Sequence[Paid], gave_up: bool) -> Iterator[Finding]:
    """What each payer saw. `gave_up`: nobody is expected to have been answered to the end.

    Of what a payer that was stopped could not look up, only the book can tell.
    """
    for payer in payers:
        report = payer.report
        if report is None:
            yield "live", f"{payer.name}: {payer.error or 'no report'}"
            continue
        yield from accounted(report, payer.name)
        for name, count in report.faults.items():
            yield BY_FAULT.get(name, "durable"), f"{payer.name}: {name} {count:,}"
        if report.evictions:
            yield "durable", f"{payer.name}: the server does not know sessions: {report.evictions}"
        if not gave_up and (report.unanswered or report.stopped):
            what = f"{report.unanswered:,} payments unanswered; {report.stopped or 'to the end'}"
            yield "live", f"{payer.name}: {what}"
        if not report.stopped and report.found != report.accepted:
            what = f"{report.found:,} of {report.accepted:,} acknowledged payments were looked up"
            yield "durable", f"{payer.name}: {what}"


def accounted(report: Report, name: str) -> Iterator[Finding]:
    """Each payment that was offered has one fate."""
    refused = sum(report.refused.values())
    fates = report.accepted + refused + report.unanswered
    if fates != report.sent:
        what = f"accepted {report.accepted:,} + refused {refused:,} + unanswered"
        yield "accounted", f"{name}: {what} {report.unanswered:,} are not {report.sent:,} sent"


def book(
    code: int, facts: dict[str, Any], told: str, payers: Sequence[Paid], counted: bool = True
) -> Iterator[Finding]:
    """The book as `ledger verify` read it, against what the payers were told, if that `counted`."""
    if code != Exit.OK or not facts.get("clean"):
        why = facts.get("fault") or facts.get("stamp_fault") or told
        yield "chain", f"ledger verify ended with {code}: {why}"
        return
    for one in facts["ledgers"]:
        for kind in ("posted", "pending"):
            debits, credits = one[f"debits_{kind}"], one[f"credits_{kind}"]
            if debits != credits:
                yield "conserved", f"{kind} debits {debits}, {kind} credits {credits}"
    if not counted:
        return
    reports = [one.report for one in payers if one.report is not None]
    accepted = sum(one.accepted for one in reports)
    most = accepted + sum(one.unanswered for one in reports)
    there = facts["records"].get("transfer", 0)
    if there < accepted:
        yield "durable", f"{accepted:,} payments were acknowledged, the book has {there:,}"
    if there > most and len(reports) == len(payers):
        yield "one-effect", f"the book has {there:,} payments, at most {most:,} were made"


def expectation(
    expect: str, *, failed_stop: bool, refused: bool, serves: bool, rolled_back: bool = False
) -> Iterator[Finding]:
    """Whether the server did what the scenario says."""
    if expect == "fail-stop" and not failed_stop:
        yield "fail-stop", "the server did not end by itself"
    if expect == "refuse" and not refused:
        yield "refuse", "nothing was refused"
    if rolled_back != (expect == "evict"):
        yield "evicted", f"{expect} is expected and the journal was put back: {rolled_back}"
    if expect != "fail-stop" and not serves:
        yield "live", "the server does not serve in the end"
