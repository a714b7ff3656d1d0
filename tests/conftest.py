"""Shared fixtures: a real server process, started, watched, killed and started again by a test.

Whatever a test leaves running is killed when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from chaos.process import Server


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
