"""A sale as a file: TOML, read strictly, so that a typing error does not quietly test nothing.

[scenario] says what it is and what is expected, [load] is the load generator's own options, each
[[fault]] is a trouble, and [compare] pays once more in turns with other options. Nothing here runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Union

import msgspec

from chaos import strict
from chaos.sale import (
    crowd_troubles,
    disk_troubles,
    file_troubles,
    network_troubles,
    process_troubles,
)
from chaos.sale.trouble import Trouble
from chaos.scenario import Refused, Strict
from ledger.load.report import Options

FORMAT = 1
PEAK = "peak"
PEAK_RATE = 100_000.0
ROUNDS_MAX = 10
SECONDS_MAX = 600.0
NOT_ASKED = {"address", "cluster", "check", "seed", "ledger"}  # the runner's, not the scenario's


class Head(Strict):
    """[scenario]. `rto_max_seconds` is how soon payments must be acknowledged again after each
    fault's end."""

    name: str
    format: int
    tier: Literal["process", "network"]
    about: str
    expect: Literal["survive", "fail-stop", "refuse", "evict"] = "survive"
    rto_max_seconds: float = 10.0


_OPTIONS = [one for one in msgspec.structs.fields(Options) if one.name not in NOT_ASKED]
_FIELDS = [
    (one.name, float | Literal["peak"] | None if one.name == "rate" else one.type, one.default)
    for one in _OPTIONS
]
Load: Any = msgspec.defstruct("Load", _FIELDS, bases=(Strict,), module=__name__, kw_only=True)
_ROOMS = (process_troubles, disk_troubles, network_troubles, file_troubles, crowd_troubles)
TROUBLES: dict[str, type[Trouble]] = {
    str(one.__struct_config__.tag): one
    for room in _ROOMS
    for one in vars(room).values()
    if isinstance(one, type) and issubclass(one, Trouble) and one is not Trouble
}
AnyTrouble: Any = Union[tuple(TROUBLES.values())]  # noqa: UP007 - made from a list


class Compare(Strict):
    """[compare]: the load is made `rounds` times in turns as it is and with these options."""

    rounds: int = 2
    distribution: Literal["uniform", "zipf", "hot"] | None = None
    hot_share: float | None = None
    batch: int | None = None

    def changes(self) -> dict[str, Any]:
        """The options that differ."""
        own = msgspec.structs.asdict(self)
        return {name: own[name] for name in own if name != "rounds" and own[name] is not None}


class SaleScenario(Strict):
    """A whole file."""

    scenario: Head
    load: Load
    fault: tuple[AnyTrouble, ...] = ()
    compare: Compare | None = None

    def options(self, address: str, seed: int, rate: float | None) -> Options:
        """What the load generator is asked. ValueError names what cannot be."""
        asked = msgspec.structs.asdict(self.load) | {"rate": rate}
        return Options(address=address, seed=seed, check=True, **asked)


def read(path: Path) -> SaleScenario:
    """The sale in a file. Refused says what is wrong with it."""
    return of(strict.tables(path), path)


def of(found: Any, path: Path) -> SaleScenario:
    """The sale that plain data of a file is. Refused says what is wrong with it."""
    try:
        sale = msgspec.convert(found, SaleScenario)
        _check(sale)
        sale.options(Options().address, 0, None if sale.load.rate == PEAK else sale.load.rate)
    except (msgspec.ValidationError, ValueError) as error:
        raise Refused(f"{path}: {error}") from error
    return sale


def _check(sale: SaleScenario) -> None:
    """ValueError for words that are known and do not go together."""
    if sale.scenario.format != FORMAT:
        raise ValueError(f"format {sale.scenario.format}, this software reads {FORMAT}")
    seconds = sale.load.duration_seconds
    if seconds is None or not 0 < seconds <= SECONDS_MAX:
        raise ValueError(f"a sale has duration_seconds, at most {SECONDS_MAX:.0f}")
    known: set[str] = set()
    for fault in sale.fault:
        why = fault.wrong()
        if why is not None:
            raise ValueError(f"fault {fault.name!r} {why}")
        if fault.after and fault.after not in known:
            raise ValueError(f"no fault before {fault.name!r} has the id {fault.after!r}")
        if fault.id in known:
            raise ValueError(f"two faults have the id {fault.id!r}")
        known |= {fault.id} - {""}
    if sale.compare is not None:
        if any(fault.TIMED for fault in sale.fault):
            raise ValueError("a comparison has no faults with a moment")
        if not 1 <= sale.compare.rounds <= ROUNDS_MAX or not sale.compare.changes():
            raise ValueError(f"compare needs an option that differs, and 1 to {ROUNDS_MAX} rounds")
