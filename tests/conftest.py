"""Shared fixtures: a real server process, started, watched, killed and started again by a test.

Whatever a test leaves running is killed when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from chaos.process import Server
from tests.core_driver import Driver


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """start(directory=None, cluster=0, env=None, **options) -> a Server that listens."""
    servers: list[Server] = []

    def start(
        directory: Path | None = None,
        cluster: int = 0,
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> Server:
        place = directory or tmp_path / f"book-{len(servers)}"
        servers.append(Server(place, cluster, env, **options))
        return servers[-1].start()

    yield start
    for one in servers:
        one.close()


@pytest.fixture(params=[(0, 0), (1, 0), (7, 2)], ids=lambda p: f"window-{p[0]}-{p[1]}")
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores that keep all history, drop each group at once, and keep two small windows closed."""
    monkeypatch.setattr(Driver, "window_events", request.param[0])
    monkeypatch.setattr(Driver, "windows_kept", request.param[1])
