"""Tests of the errors: what ends a command with which exit code."""

from __future__ import annotations

import pytest

from ledger import errors
from ledger.config import Exit


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.DataRefused("x"), Exit.DATA_REFUSED),
        (errors.ClockRefused("x"), Exit.DATA_REFUSED),
        (errors.DirectoryInUse("x"), Exit.DIRECTORY),
        (errors.DirectoryNotWritable("x"), Exit.DIRECTORY),
        (errors.Fenced("x"), Exit.FENCED),
        (errors.WrongProcess("x"), Exit.USAGE),
        (errors.LedgerStopped(OSError(5, "Input/output error")), Exit.IO_ERROR),
        (errors.LedgerStopped(errors.Fenced("x")), Exit.FENCED),
        (errors.DiskFull("x"), Exit.IO_ERROR),
    ],
)
def test_exit_code(error: errors.LedgerError, exit_code: Exit) -> None:
    assert error.exit_code is exit_code


def test_messages_say_what_to_do() -> None:
    assert str(errors.OutcomeUnknown("no reply for 30 s")) == (
        "no reply for 30 s: outcome unknown, retry with the same ids"
    )
    assert errors.SessionEvicted("NO_SESSION").reason == "NO_SESSION"
    assert "MemoryError" in str(errors.LedgerStopped(MemoryError()))
