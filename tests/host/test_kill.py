"""The server is killed at random moments under load, many times on one directory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.process import Server
from tests.support.bank import BURNED, CREATED, Bank
from tests.support.raw import serves

Start = Callable[..., Server]
ROUNDS = 15


@pytest.mark.parametrize("refused_only", [False, True], ids=["all kinds", "only refusals"])
def test_killed_at_random_moments(server: Start, refused_only: bool) -> None:
    bank = Bank(server(), 1 + refused_only, refused_only)
    for number in range(ROUNDS):
        bank.work_until(bank.kill_at_some_moment)
        if number % 5 == 4:
            bank.check_offline()
        bank.server.restart()
        bank.check()
    statuses = {status for teller in bank.tellers for *_, status in teller.told.values()}
    assert BURNED & statuses, "nothing was burned: this run shows less than it should"
    assert (CREATED in statuses) != refused_only
    assert sum(len(teller.told) for teller in bank.tellers) > 100 * ROUNDS
    bank.server.terminate()
    bank.check_offline()


@pytest.mark.parametrize("stage", ["applied", "encoded", "appended", "released"])
def test_killed_at_each_stage_of_a_group(server: Start, stage: str) -> None:
    """A server that kills itself before a group is durable, or after that but before answers."""
    bank = Bank(server(), 9, refused_only=False)
    bank.server.terminate()
    for nth in (3, 17, 40):
        bank.server.restart(LEDGER_FAILPOINT=f"{stage}:kill:{nth}")
        bank.work_until(lambda: None)
        assert bank.server.wait() == -9
        bank.server.restart()
        bank.check()
        bank.server.terminate()
    bank.check_offline()
    assert serves(bank.server.restart().address)
