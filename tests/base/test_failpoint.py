"""Failpoints: off without a setting, and at the pass that was named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ledger.base.failpoint import VARIABLE, FailpointReached, failpoint


def test_without_a_setting_there_is_none(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert failpoint() is None
    assert failpoint("") is None


def test_it_raises_at_the_nth_pass_of_its_stage_and_only_there():
    reach = failpoint("applied:raise:3")
    for stage in ("applied", "encoded", "applied", "encoded"):
        reach(stage)
    with pytest.raises(FailpointReached, match="applied"):
        reach("applied")
    reach("applied")


def test_each_has_a_count_of_its_own():
    first, second = failpoint("a:raise:1"), failpoint("a:raise:2")
    with pytest.raises(FailpointReached):
        first("a")
    second("a")


def test_the_environment_sets_it(monkeypatch):
    monkeypatch.setenv(VARIABLE, "encoded:raise:1")
    with pytest.raises(FailpointReached):
        failpoint()("encoded")


@pytest.mark.parametrize(
    "setting", ["a", "a:raise", "a:raise:x", "a:raise:0", "a:stop:1", "a:raise:1:2"]
)
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(ValueError, match="is not stage:kill"):
        failpoint(setting)


def test_it_kills_the_process_that_passes():
    program = (
        "from ledger.base.failpoint import failpoint; r = failpoint(); r('a'); print(1); r('a')"
    )
    environment = dict(os.environ) | {VARIABLE: "a:kill:2"}
    done = subprocess.run([sys.executable, "-uc", program], env=environment, capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"1\n")
