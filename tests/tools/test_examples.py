"""The examples run as they are printed, and do what they say; a second run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, arguments)],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_embed(tmp_path):
    for balance in ("25.00", "50.00"):
        said = run("embed.py", tmp_path / "book")
        assert said[:4] == [
            "deposit: ['CREATED']",
            "sent again: ['EXISTS']",
            "hold, capture: ['CREATED', 'CREATED']",
            "too much: ['EXCEEDS_CREDITS']",
        ]
        assert [line.split()[1] for line in said[4:7]] == ["-25.00", "-30.00", "+50.00"]
        assert said[7] == f"balance: {balance}"


def test_every_example_is_run_here():
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == ["embed.py"]
