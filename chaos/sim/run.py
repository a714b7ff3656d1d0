"""One run of a plan: the world is built, troubled, healed and judged.

While the plan's time lasts its requests and faults happen; then every fault ends and all clients
must get their answers (`live`). A closing client reads every account and transfer as any client
could, so that unknown outcomes are resolved from outside, and the judge compares.
"""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos import derived, model
from chaos.altered import configured
from chaos.scenario import MS, SECOND, Plan
from chaos.sim import checks
from chaos.sim.client import Client, Request
from chaos.sim.network import Network
from chaos.sim.sealed import told_by
from chaos.sim.server import CLUSTER, Server, empty_book, memory, virtual_door
from chaos.sim.world import World
from chaos.workload import records
from ledger.facts.errors import LedgerError

HEAL_NS_MAX = 120 * SECOND  # the longest that service may take to return after the last fault
QUIET_NS_MAX = 2 * SECOND  # the longest that an answer may take where nothing is wrong
REST_NS = 5 * SECOND  # longer than most holds
TAIL = 60  # lines of the trace that go to a failure's file
LOOKUP_MAX = 500
ALL = 8_000  # more than any book of a plan holds


class Outcome:
    """What a run came to."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.broken, self.seen = plan, world.broken, world.seen
        self.codes = world.codes
        self.trace_hash, self.tail = world.trace_hash(), world.trace[-TAIL:]
        self.virtual_ns = world.now_ns
        self.trace = world.trace


class Runs:
    """Runs plans, one after the other. Use it as a context: it keeps empty books to copy."""

    def __enter__(self) -> Runs:
        self._root = Path(tempfile.mkdtemp(prefix="chaos-template-", dir=memory()))
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def _template(self, wall_ns: int) -> Path:
        path = self._root / f"book-{wall_ns}"
        if not path.exists():
            empty_book(path, wall_ns)
        return path

    def run(self, plan: Plan) -> Outcome:
        world = World(plan.seed)
        with virtual_door(world), configured(plan.bounds):
            run = virtual(world, plan, self._template(plan.wall_ns))
            with told_by(run.server.sealed):
                return run.outcome()


def virtual(world: World, plan: Plan, template: Path) -> Run:
    """The run of a plan on virtual time."""
    low, high = plan.delay_us
    network = Network(world, (low * 1000, high * 1000), plan.cut_share)
    sync_low, sync_high = plan.sync_us
    sync_ns = (sync_low * 1000, sync_high * 1000)
    server = Server(world, network, template, sync_ns, plan.wall_ns)
    run = Run(world, plan, network, server)
    run.troubles = Troubles(run)
    return run


class Run:
    """One run over a network and a server, whichever they are. Its maker gives it `troubles`."""

    heal_ns_max = HEAL_NS_MAX
    quiet_ns_max: int | None = QUIET_NS_MAX
    troubles: Troubles

    def __init__(self, world: World, plan: Plan, network: Network, server: Any) -> None:
        self.world, self.plan = world, plan
        self.network, self.server = network, server
        self.clients = [
            Client(world, self.network, self.server, index) for index in range(len(plan.sessions))
        ]
        for client, sessions in zip(self.clients, plan.sessions, strict=True):
            for _ in range(sessions):
                client.add_session()

    def outcome(self) -> Outcome:
        """Run, and put the server away; whatever is raised meanwhile breaks an invariant."""
        try:
            self.all()
        except checks.Broken as broken:
            self.world.breaks(broken.check, broken.what)
        except Exception:
            self.world.breaks("judged", "an exception:\n" + traceback.format_exc())
        finally:
            self.server.remove()
        return Outcome(self.plan, self.world)

    def all(self) -> None:
        world, plan = self.world, self.plan
        horizon = int(plan.seconds * SECOND)
        for entry in plan.entries:
            if "ask" in entry:
                world.at(entry["at_ns"], self._ask, entry)
            else:
                self.troubles.plan(entry)
        world.at(0, self.server.start)
        world.run(lambda: world.now_ns >= horizon, horizon)
        if world.broken is not None:
            return
        world.now_ns = max(world.now_ns, horizon)
        self._last_troubles(horizon)
        self.troubles.heal()
        self._until(lambda: not any(one.busy for one in self.clients), "requests")
        asked = [one for client in self.clients for one in (*client.registers, *client.history)]
        rollbacks = self.server.rollbacks
        outlived = checks.rolled_back(asked, rollbacks) if rollbacks else set[int]()
        closing = self._close()
        self._rest()
        self._until(lambda: self.server.idle, "the server")
        if world.broken is None:
            self.server.check_bounds()
        if world.broken is not None:
            return
        core, rested_ns = self.server.core, self.rested_ns()
        world.note(f"end: {core.position if core else 0}")
        live = self.server.stop()
        if world.broken is not None:
            return
        self._check_prompt()
        histories = [one.history for one in (*self.clients, closing)]
        # What ended before a rollback may have ended in what is lost.
        evicted = {
            client
            for one in (*self.clients, closing)
            for client, epoch in one.evicted.items()
            if epoch == len(rollbacks)
        }
        checks.judge(self.server.directory, histories, live, evicted - outlived, rested_ns)
        self._check_derived()
        world.note(f"state {live.hex() if live else 'not told'}")

    def _check_prompt(self) -> None:
        """Where nothing was wrong nobody is left to wait, not even for a while."""
        if self.quiet_ns_max is None or any("do" in entry for entry in self.plan.entries):
            return
        for client in self.clients:
            for one in client.history:
                if one.returned_ns and one.returned_ns - one.invoked_ns > self.quiet_ns_max:
                    ms = (one.returned_ns - one.invoked_ns) // MS
                    what = f"without any fault c{client.index} waited {ms} ms for entry {one.entry}"
                    raise checks.Broken("live", what)

    def _check_derived(self) -> None:
        """What is derived from the journal must be what a rebuild makes of it."""
        events = self.plan.bounds.get("WINDOW_EVENTS", 0)
        if events:
            server = self.server
            try:
                why = derived.fault_of(server.directory, CLUSTER, int(events), server.rotten)
            except LedgerError as error:
                raise checks.Broken("derived", f"the book is refused: {error}") from error
            if why is not None:
                raise checks.Broken("derived", why)

    def _rest(self) -> None:
        """Nobody asks for a while, so that holds must end by themselves."""
        self.world.run(lambda: False, self.world.now_ns + REST_NS)

    def rested_ns(self) -> int:
        """The ledger clock by which whatever was due must have been done."""
        return int(self.server.clock_ns()) - SECOND

    def _last_troubles(self, horizon_ns: int) -> None:
        """What the plan's time was not enough for; on virtual time it always is."""

    def _until(self, done: Any, what: str) -> None:
        world = self.world
        world.run(done, world.now_ns + self.heal_ns_max)
        if world.broken is None and not done():
            seconds = self.heal_ns_max // SECOND
            world.breaks("live", f"{what} not done {seconds} s after the last fault")

    def _ask(self, entry: dict[str, Any]) -> None:
        client = self.clients[entry["client"]]
        if "herd" in entry:
            self.world.count("herd")
        request = Request(
            entry["entry"], entry["ask"], records(entry["ask"], entry["batches"]),
            entry.get("give_up_ns", 0),
        )  # fmt: skip
        client.ask(client.sessions[entry["session"]], request)

    def _close(self) -> Client:
        """A client that reads everything, as anybody could."""
        closing = Client(self.world, self.network, self.server, len(self.clients))
        session = closing.add_session()
        ids: dict[int, set[int]] = {146: set(), 147: set()}
        for entry in self.plan.entries:
            if entry.get("ask") in ids:
                ids[entry["ask"]] |= {one.get("id", 0) for b in entry["batches"] for one in b}
        for creates, operation in ((146, 140), (147, 141)):
            wanted = sorted(ids[creates])
            for at in range(0, len(wanted), LOOKUP_MAX):
                closing.ask(session, Request(-1, operation, [wanted[at : at + LOOKUP_MAX]]))
        for operation, asked in self._statements(ids[146]):
            closing.ask(session, Request(-1, operation, [[asked]]))
        self._until(lambda: not closing.busy, "the closing reads")
        seen = b"".join(
            part for one in closing.history if one.operation == 140 for part in one.results
        )
        if self.world.broken is None:
            checks.totals(seen)
            self._resolve(closing)
        return closing

    def _statements(self, accounts: set[int]) -> Iterator[tuple[int, Any]]:
        """All of the past, in both directions: what was sealed and what was not."""
        if "WINDOW_EVENTS" not in self.plan.bounds:
            return
        both = model.FilterFlag.debits | model.FilterFlag.credits
        for backwards in (0, model.FilterFlag.reversed):
            for id in sorted(accounts - {0}):
                one = model.AccountFilter(account_id=id, limit=ALL, flags=both | backwards)
                yield from ((142, one), (143, one))
            yield 145, model.QueryFilter(limit=ALL, flags=int(backwards > 0))

    def _resolve(self, closing: Client) -> None:
        """What was acknowledged as created is found again by its id."""
        found = {
            one.id
            for request in closing.history
            if request.operation == 141
            for part in request.results
            for one in model.decode_all(model.Transfer, part)
        }
        for client in self.clients:
            for request in client.history:
                if request.operation != 147 or request.returned_ns is None:
                    continue
                events = [event for batch in request.batches for event in batch]
                results = model.decode_all(model.Result, b"".join(request.results))
                for event, result in zip(events, results, strict=True):
                    created = result.status == model.TransferStatus.created
                    if created and event.id not in found:
                        raise checks.Broken("durable", f"transfer {event.id} is gone")


class Troubles:
    """The faults of a plan: when each begins and ends."""

    def __init__(self, run: Run) -> None:
        self._run, self._world = run, run.world
        self._server, self._network = run.server, run.network
        self._ends: list[Any] = []
        self._copied = False  # there is a copy of the journal that will be put back

    def plan(self, entry: dict[str, Any]) -> None:
        name, server = entry["do"], self._server
        if name == "crash-append" or (name == "crash" and entry["append"] and not entry["at_ns"]):
            server.harm.crash_at.setdefault(entry["append"], entry["stage"])
        elif name == "fail-append":
            server.harm.fail_at.setdefault(entry["append"], entry["stage"])
        elif name in ("crash-aside", "fail-aside"):
            server.sealed.plan(entry)
        else:
            self._world.at(entry["at_ns"], self._begin, entry)

    def _begin(self, entry: dict[str, Any]) -> None:
        name = entry["do"]
        if self._world.now_ns >= int(self._run.plan.seconds * SECOND):
            return
        if name != "rot":  # there may be nothing to rot
            self._world.count(name)
        self._world.note(f"fault {name} {entry['client']}")
        end = getattr(self, "_" + name.replace("-", "_"))(entry)
        if end is not None:
            once = _Once(end)
            self._ends.append(once)
            self._world.after(entry["for_ns"], once)

    def heal(self) -> None:
        """Every fault that lasts ends now, and none comes any more."""
        self._world.note("heal")
        self._server.harm.crash_at.clear()
        self._server.harm.fail_at.clear()
        self._server.sealed.heal()
        for end in self._ends:
            end()

    # ---- each fault begins something and returns how it ends ------------------------------------

    def _crash(self, entry: dict[str, Any]) -> None:
        self._server.crash("killed", entry["for_ns"])

    def _freeze(self, entry: dict[str, Any]) -> None:
        self._server.freeze(self._world.now_ns + entry["for_ns"])

    def _slow_disk(self, entry: dict[str, Any]) -> Any:
        self._server.harm.slowness = 40

        def end() -> None:
            self._server.harm.slowness = 1

        return end

    def _disk_full(self, entry: dict[str, Any]) -> Any:
        shut = entry["stage"] == "after"
        self._server.fill(shut)
        return lambda: self._server.free(shut)

    def _roll_back(self, entry: dict[str, Any]) -> Any:
        # One copy at a time: of two, the later one might bring back what the earlier one took.
        if self._copied:
            return None
        self._copied, copy = True, self._server.copy()

        def end() -> None:
            self._copied = False
            self._server.roll_back(copy)

        return end

    def _clock_step(self, entry: dict[str, Any]) -> None:
        self._server.wall_step_ns += entry["by_ns"]

    def _rot(self, entry: dict[str, Any]) -> None:
        self._server.sealed.rot(entry["client"] + entry["place"] // 2**32, entry["place"])

    def _delay(self, entry: dict[str, Any]) -> Any:
        self._network.delay_ns = (80 * MS, 100 * MS)

        def end() -> None:
            self._network.delay_ns = self._network.calm_delay_ns

        return end

    def _reset(self, entry: dict[str, Any]) -> None:
        for line in self._network.of(entry["client"]):
            line.kill()

    def _half_open(self, entry: dict[str, Any]) -> None:
        tells_client = entry["stage"] == "after"
        for line in self._network.of(entry["client"]):
            line.kill(client_told=tells_client, server_told=not tells_client)

    def _partition(self, entry: dict[str, Any]) -> Any:
        self._network.partition(entry["client"], True)
        return lambda: self._network.partition(entry["client"], False)

    def _stall(self, entry: dict[str, Any]) -> Any:
        self._network.stall(entry["client"], True)
        return lambda: self._network.stall(entry["client"], False)

    def _duplicate(self, entry: dict[str, Any]) -> None:
        self._run.clients[entry["client"]].second_connection()

    def _storm(self, entry: dict[str, Any]) -> Any:
        for client in self._run.clients:
            client.storming += 1

        def end() -> None:
            for client in self._run.clients:
                client.storming -= 1

        return end


class _Once:
    """A call that happens once, whoever comes first."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback

    def __call__(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
