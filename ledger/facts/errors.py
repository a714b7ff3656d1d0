"""Every error the ledger raises on purpose, with the exit code it ends a command with.

A message says what was found, where, and what can be done; whoever raises writes it. Nothing here
knows who raises or who catches. Wrong arguments are plain ValueErrors and not listed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from ledger.facts.limits import Exit


class LedgerError(Exception):
    """Base of all errors of the ledger. Pickled, it comes back with its text and attributes."""

    exit_code: Exit = Exit.IO_ERROR

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class again: what it is given is not what it hands to Exception.
        return _again, (type(self), self.args, self._attributes())

    def _attributes(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def _made(cls, arguments: tuple[Any, ...], attributes: dict[str, Any]) -> Self:
        error = cls.__new__(cls)
        error.args = arguments
        vars(error).update(attributes)
        return error


def _again(
    kind: type[LedgerError], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> LedgerError:
    """An error out of what a pickle holds of it."""
    return kind._made(arguments, attributes)


class DataRefused(LedgerError):
    """What is on disk is not what it must be: format, check, digest, cluster, head stamp."""

    exit_code = Exit.DATA_REFUSED


class ClockRefused(DataRefused):
    """The wall clock is further ahead of the journal than any pause explains."""


class ColumnDamaged(DataRefused):
    """A column file is damaged, the one at `path`: derived data, rebuilt and never served."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path


class DirectoryInUse(LedgerError):
    """Another process has the book open."""

    exit_code = Exit.DIRECTORY


class DirectoryNotWritable(LedgerError):
    """The book's directory, or its parent at creation, cannot be written."""

    exit_code = Exit.DIRECTORY


class DirectoryNotReadable(LedgerError):
    """What is to be looked at may not be read by this user."""

    exit_code = Exit.DIRECTORY


class SystemLimit(LedgerError):
    """The system does not give what is needed: address space, memory, descriptors or threads."""

    exit_code = Exit.SYSTEM


class MapRefused(SystemLimit):
    """The address space for the map of an LMDB file is not to be had."""

    def __init__(self, path: str, map_bytes: int) -> None:
        super().__init__(
            f"cannot map {path}: the map takes {map_bytes >> 30} GiB of address space (not of"
            " memory or disk), more than this process may have: raise the limit (`ulimit -v"
            " unlimited`, LimitAS=infinity of a systemd unit)"
        )


class Fenced(LedgerError):
    """The log is not where its one writer left it: somebody else appended."""

    exit_code = Exit.FENCED


class WrongProcess(LedgerError):
    """A book is used in a process that did not open it, usually after a fork."""

    exit_code = Exit.USAGE


class LedgerStopped(LedgerError):
    """The engine has stopped for good; what was not acknowledged is unknown until a restart.

    `cause` is the first error, and gives the exit code when it has one.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"the ledger has stopped: {str(cause) or type(cause).__name__}")
        self.cause = cause
        if isinstance(cause, LedgerError):
            self.exit_code = cause.exit_code

    def _attributes(self) -> dict[str, Any]:
        """A cause that no pickle brings back is told by its words."""
        attributes = super()._attributes()
        try:
            back = pickle.loads(pickle.dumps(self.cause))
            whole = type(back) is type(self.cause) and str(back) == str(self.cause)
        except Exception:
            whole = False
        if not whole:
            words = f"{type(self.cause).__name__}: {self.cause}"
            attributes["cause"] = LedgerError(words)
        return attributes


class DiskFull(LedgerError):
    """Refused before acceptance: the space that accepted work may need is not there."""


class Busy(LedgerError):
    """Refused before acceptance: as much work as the limits allow is under way."""


class OutcomeUnknown(LedgerError):
    """A client gave up waiting: the request may or may not have been executed."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}: outcome unknown, retry with the same ids")


class SessionEvicted(LedgerError):
    """The server ended the client's session; `reason` is the name of its EvictionReason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server ended the session: {reason}")
        self.reason = reason


class HistoryLost(LedgerError):
    """The server answered at `position`, before `seen`, which it had answered from earlier.

    Its journal was put back from a copy: payments that were acknowledged may be gone, and the
    request that was answered so is done on what is left. The client is finished.
    """

    exit_code = Exit.DATA_REFUSED

    def __init__(self, seen: int, position: int) -> None:
        super().__init__(
            f"the server has lost history: it answered at position {position}, this client has"
            f" seen {seen}; the request is done on what is left, find out what is gone"
        )
        self.seen, self.position = seen, position


def system_limit(error: BaseException) -> SystemLimit | None:
    """What is raised when the system gives no descriptor, thread or memory, as an error of ours."""
    if isinstance(error, MemoryError):
        return SystemLimit("the system gives no more memory")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return SystemLimit("the system lets this process start no other thread (`ulimit -u`)")
    if any(map(_of_descriptors, _causes(error))):
        return SystemLimit(
            "the system gives this process no more descriptors: raise the limit (`ulimit -n`,"
            " LimitNOFILE of a systemd unit)"
        )
    return None


@contextlib.contextmanager
def naming_limits() -> Iterator[None]:
    """What is raised for want of what the system limits is a SystemLimit."""
    try:
        yield
    except (OSError, LedgerError) as error:
        if isinstance(error, SystemLimit) or (why := system_limit(error)) is None:
            raise
        raise why from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def _of_descriptors(error: BaseException) -> bool:
    # What LMDB raises has the system's words and not its number.
    codes = (errno.EMFILE, errno.ENFILE)
    return getattr(error, "errno", None) in codes or any(
        str(error).endswith(os.strerror(code)) for code in codes
    )


@dataclass(frozen=True)
class Refusal:
    """One event that was not created: its place in the request, its id and why."""

    index: int
    id: int
    status: Any  # an AccountStatus or a TransferStatus


class NotCreated(LedgerError):
    """Events of a request were refused, by the rules and for good; `refusals` says which and why.

    The others of the request were created: a request is not a chain.
    """

    def __init__(self, refusals: list[Refusal], count: int) -> None:
        shown = [f"[{one.index}] id {one.id}: {one.status.name}" for one in refusals[:SHOWN_MAX]]
        more = len(refusals) - len(shown)
        super().__init__(
            f"{len(refusals)} of {count} events were not created: {'; '.join(shown)}"
            f"{f'; and {more} more' if more else ''}"
        )
        self.refusals = refusals


SHOWN_MAX = 10  # refusals that an error's text names
