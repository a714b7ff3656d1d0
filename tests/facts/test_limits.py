"""Limits that belong together: whoever changes one alone cannot even import the ledger."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ledger.facts import _facts, limits

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "ledger" / "facts" / "limits.py").read_text()


def changed(name: str, value: str) -> str:
    """The source of limits.py with another value of one limit."""
    text, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}  ", SOURCE, flags=re.M)
    assert count == 1
    return text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GROUP_BYTES_MAX", "1 << 20"),
        ("GROUP_VALUE_BYTES_MAX", "1 << 20"),
        ("READ_LARGE_BYTES", "1 << 30"),
        ("DIGEST_ASIDE_BYTES", "1 << 30"),
        ("DISK_RESERVE_BYTES", "1 << 20"),
        ("WINDOWS_CLOSED_MAX", "0"),
        ("WINDOW_EVENTS", "8_189"),
        ("COLD_LITTLE_MAX", "10_000"),
        ("REFUSED_RETRY_NS", "1 << 50"),
        ("CLOCK_STEP_ALARM_NS", "1 << 60"),
        ("TURN_READ_BYTES", "1 << 22"),
        ("RECEIVE_BYTES_MAX", "1 << 20"),
        ("BEHIND_BYTES", "1 << 23"),
        ("SWEEP_SECONDS", "10.0"),
        ("IDLE_SECONDS_MAX", "60.0"),
        ("CLIENT_SESSIONS", "0"),
        ("REQUEST_SECONDS_MAX", "0.5"),
        ("RECONNECT_SECONDS_MAX", "60.0"),
        ("WAIT_SECONDS_MAX", "1e10"),
    ],
)
def test_a_limit_that_breaks_a_relation_does_not_import(name, value):
    with pytest.raises(AssertionError):
        exec(changed(name, value), {"__name__": "ledger.facts.limits"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WINDOWS_CLOSED_MAX", limits.WINDOWS_CLOSED_MAX + 1),
        ("EVENT_BYTES_WORST", limits.EVENT_BYTES_WORST - 16),
        ("REQUEST_BYTES_WORST", limits.EVENTS_MAX * limits.EVENT_BYTES_WORST),
        ("COUNTS_MAX", 65_533),
        ("GROUP_BYTES_MAX", 1 << 21),
    ],
)
def test_nor_does_one_that_the_compiled_modules_do_not_share(name, value):
    """More closed windows than the core has room for ended a loaded server by an invariant."""
    program = f"import ledger.facts.limits as c; c.{name} = {value}; import ledger.facts.schema"
    # The package imports everything at once: config is set before, from a bare module of its name.
    program = (
        "import importlib.util, sys, types; package = types.ModuleType('ledger');"
        f" package.__path__ = [{str(ROOT / 'ledger')!r}]; sys.modules['ledger'] = package; "
    ) + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def test_the_core_holds_the_closed_windows_a_start_replays_and_the_open_one():
    assert _facts.limits()["MEMTABLES_MAX"] == limits.WINDOWS_CLOSED_MAX + 2


def test_the_package_says_where_it_runs_and_what_it_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "Operating System :: POSIX :: Linux" in project["classifiers"]
    assert {"uvloop>=0.23,<1", "msgspec>=0.20,<1"} <= set(project["dependencies"])
