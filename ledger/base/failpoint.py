"""Named failpoints: places in a group's way where a test can make the process die or raise.

LEDGER_FAILPOINT="stage:action:nth" in the environment turns one on: at the nth pass of the stage
the action is done, `kill` (SIGKILL to itself) or `raise`. Without it failpoint() is None and
a stage costs one comparison. Stages are named by who calls. This file knows no stage.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "LEDGER_FAILPOINT"


class FailpointReached(Exception):
    """What the action `raise` raises."""


def failpoint(setting: str | None = None) -> Callable[[str], None] | None:
    """What to call with a stage's name, or None when no failpoint is set.

    ValueError for a setting that is not stage:action:nth.
    """
    setting = os.environ.get(VARIABLE) if setting is None else setting
    if not setting:
        return None
    parts = setting.split(":")
    counts = len(parts) == 3 and parts[2].isdigit() and int(parts[2]) > 0
    if not counts or parts[1] not in ("kill", "raise"):
        raise ValueError(f"{VARIABLE}={setting!r} is not stage:kill|raise:nth")
    wanted, action, left = parts[0], parts[1], int(parts[2])

    def reach(stage: str) -> None:
        nonlocal left
        if stage != wanted:
            return
        left -= 1
        if left == 0:
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise FailpointReached(stage)

    return reach
