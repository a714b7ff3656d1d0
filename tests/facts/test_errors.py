"""Tests of the errors: what ends a command with which exit code, and what a pickle brings back."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ledger
from ledger.facts import errors
from ledger.facts.limits import Exit


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


# ---- over the border of a process ----------------------------------------------------------------

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.LedgerError)
]
WORDS = st.text(max_size=20)
REFUSALS = st.lists(
    st.builds(
        errors.Refusal,
        st.integers(0, 8188),
        st.integers(0, 2**128 - 1),
        st.sampled_from(list(ledger.TransferStatus)),
    ),
    min_size=1,
    max_size=12,
)


def errors_of(kind: type[errors.LedgerError]) -> st.SearchStrategy[errors.LedgerError]:
    """Errors of a kind, as the ledger makes them."""
    if kind is errors.LedgerStopped:
        causes = st.builds(OSError, st.integers(1, 99), WORDS) | st.builds(errors.Fenced, WORDS)
        return st.builds(kind, causes | st.builds(errors.ColumnDamaged, WORDS, WORDS))
    if kind is errors.ColumnDamaged:
        return st.builds(kind, WORDS, WORDS)
    if kind is errors.NotCreated:
        return st.builds(kind, REFUSALS, st.integers(1, 8189))
    return st.builds(kind, WORDS)


def facts(error: BaseException) -> object:
    """All that can be told of an error; a cause by its own facts."""
    attributes = {
        name: facts(value) if isinstance(value, BaseException) else value
        for name, value in vars(error).items()
    }
    code = getattr(error, "exit_code", None)
    return type(error), str(error), error.args, attributes, code


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_pickled_error_comes_back_as_it_was(kind, data) -> None:
    error = data.draw(errors_of(kind))
    error.add_note("seen by the host")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert facts(pickle.loads(pickle.dumps(error, protocol))) == facts(error)
    assert facts(copy.copy(error)) == facts(error)


class Stubborn(Exception):
    """What no pickle brings back."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize("cause", [Stubborn(1, 2), OSError(5, lambda: None)])
def test_a_cause_that_cannot_be_pickled_is_told_by_its_words(cause) -> None:
    error = errors.LedgerStopped(cause)
    back = pickle.loads(pickle.dumps(error))
    assert str(back) == str(error)
    assert type(back.cause) is errors.LedgerError
    assert str(back.cause) == f"{type(cause).__name__}: {cause}"


def test_what_was_not_created_is_named_but_not_without_end() -> None:
    status = ledger.TransferStatus.EXCEEDS_CREDITS
    refusals = [errors.Refusal(place, 100 + place, status) for place in range(12)]
    text = str(errors.NotCreated(refusals, 20))
    assert text.startswith("12 of 20 events were not created: [0] id 100: EXCEEDS_CREDITS; [1]")
    assert text.endswith("[9] id 109: EXCEEDS_CREDITS; and 2 more")
