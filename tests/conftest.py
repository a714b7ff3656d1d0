"""Shared fixtures: a real server process, started, watched, killed and started again by a test.

Whatever a test leaves running is killed when it ends.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.core_driver import Driver
from chaos.process import Server, servers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """start(directory=None, cluster=0, env=None, **options) -> a Server that listens."""
    with servers(tmp_path) as start:
        yield start


@pytest.fixture(autouse=True, scope="module")
def memory_given_back() -> Iterator[None]:
    """Cores and closed books that only the collector finds would fill a worker of the suite."""
    yield
    gc.collect()


@pytest.fixture(params=[(0, 0), (1, 0), (7, 2)], ids=lambda p: f"window-{p[0]}-{p[1]}")
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores that keep all history, drop each group at once, and keep two small windows closed."""
    monkeypatch.setattr(Driver, "window_events", request.param[0])
    monkeypatch.setattr(Driver, "windows_kept", request.param[1])
