"""How a benchmark is measured and reported: rounds, and how much of what each round does.

It knows no ledger. pytest-benchmark's table shows times; the rates, in the units people ask for,
follow it and are in `extra_info` of the saved results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from chaos.process import Server, servers

FIGURES: list[tuple[str, dict[str, int]]] = []
Measure = Callable[..., None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """start(**options) -> a Server that listens, which ends with the benchmark."""
    with servers(tmp_path) as start:
        yield start


@pytest.fixture
def tiny(benchmark: BenchmarkFixture) -> bool:
    """Whether this is no measurement: the least that takes every path is enough."""
    return bool(benchmark.disabled)


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Measure:
    """measure(call, prepare, count=, unit=, rounds=): prepare() gives the arguments of each call.

    `count` is how many of `unit` one call does; `rate`, when given, says how many a second the
    calls found themselves.
    """

    def run(
        call: Callable[..., Any],
        prepare: Callable[[], tuple[Any, ...]] = tuple,
        *,
        count: int,
        unit: str = "payments",
        rounds: int = 30,
        rate: Callable[[], float] | None = None,
    ) -> None:
        benchmark.group = request.module.__name__.removeprefix("bench.test_")
        benchmark.pedantic(  # type: ignore[no-untyped-call]
            call, setup=lambda: (prepare(), {}), rounds=rounds
        )
        if benchmark.stats is not None:
            found = rate() if rate is not None else count / benchmark.stats["median"]
            benchmark.extra_info[f"{unit}/s"] = round(found)
            name = f"{benchmark.group:<8} {request.node.name:<50}"
            FIGURES.append((name, benchmark.extra_info))

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each benchmark found, of its median round."""
    if FIGURES:
        terminalreporter.section("rates of the median round")
        for name, figures in FIGURES:
            told = ", ".join(f"{value:>14,} {unit}" for unit, value in figures.items())
            terminalreporter.write_line(f"{name} {told}")
