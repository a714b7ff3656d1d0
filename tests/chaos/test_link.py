"""A slow link delays, loses, doubles and stops what real TCP and real servers send over it.

Where this machine does not allow one, its reason is looked at instead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import chaos
from chaos.machine import command, tunlink
from chaos.process import Server
from ledger.facts.limits import Exit
from tests.support.machines import can, python
from tests.support.raw import serves

MIB = 1 << 20

ECHO = """
import socket, sys
listening = socket.create_server((sys.argv[1], 0))
print(listening.getsockname()[1])
while True:
    connection, _ = listening.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
"""


@contextlib.contextmanager
def echo(link: tunlink.Link) -> Iterator[socket.socket]:
    """A connection over the link to a program that says back what it hears."""
    with python(ECHO, link.address, prefix=link.server_prefix()) as child:
        port = int(child.hear())
        with socket.create_connection((link.address, port), timeout=20) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection


def round_trip_ms(connection: socket.socket, data: bytes = b"x") -> float:
    began = time.monotonic()
    connection.sendall(data)
    heard = b""
    while len(heard) < len(data):
        heard += connection.recv(1 << 16)
    assert heard == data
    return (time.monotonic() - began) * 1e3


def test_a_link_delays_each_way() -> None:
    if not can(tunlink):
        return
    with tunlink.Link(1, delay_ms=(40, 60)) as link, echo(link) as connection:
        assert connection.getsockname()[0] == link.near_address
        slow = [round_trip_ms(connection) for _ in range(8)]
        link.change(delay_ms=(0, 0))
        round_trip_ms(connection)  # may still wait for what was sent before
        fast = min(round_trip_ms(connection) for _ in range(8))
    assert min(slow) >= 80
    assert 85 < sorted(slow)[4] < 130, f"drawn from the whole range: {slow}"
    assert fast < 20


def test_a_link_stops_one_way_or_both() -> None:
    if not can(tunlink):
        return
    with tunlink.Link(2) as link, echo(link) as connection:
        for there, back in ((True, False), (False, True), (True, True)):
            round_trip_ms(connection)
            before = link.counts()
            link.partition(there=there, back=back)
            connection.settimeout(0.15)
            connection.sendall(b"unheard")
            with pytest.raises(TimeoutError):
                connection.recv(100)
            during = link.counts()
            assert during.stopped > before.stopped
            if not there:  # else nothing may come, but an acknowledgement that was late
                assert during.carried > before.carried, "the other way goes on"
            link.heal()
            connection.settimeout(20)
            heard = b""
            while len(heard) < len(b"unheard"):
                heard += connection.recv(100)
            assert heard == b"unheard"


def test_a_link_loses_and_doubles_and_tcp_mends_it() -> None:
    if not can(tunlink):
        return
    data = os.urandom(MIB)
    weather = {"delay_ms": (1, 3), "loss": 0.02, "twice": 0.02, "reorder": True}
    with tunlink.Link(3) as link, echo(link) as connection:
        link.change(**weather)
        for start in range(0, len(data), 1 << 16):
            round_trip_ms(connection, data[start : start + (1 << 16)])
        counts = link.counts()
    assert counts.overflowed == counts.stopped == 0
    packets = counts.carried + counts.lost - counts.doubled
    assert 0.002 < counts.lost / packets < 0.06
    assert 0.002 < counts.doubled / packets < 0.06


def test_the_same_seed_loses_and_doubles_the_same_packets() -> None:
    if not can(tunlink):
        return
    fates = []
    for seed in (4, 4, 5):
        with tunlink.Link(seed, loss=0.5, twice=0.3) as link, datagrams(link) as (near, far):
            for number in range(64):
                near.sendto(bytes([number]), far.getsockname())
            counts = settled(link, 64)
            fates.append([far.recv(10)[0] for _ in range(counts.carried)])
    assert fates[0] == fates[1] != fates[2]
    assert 16 < len(set(fates[0])) < 48
    assert 4 < len(fates[0]) - len(set(fates[0])) < 24


def settled(link: tunlink.Link, packets: int) -> tunlink.Counts:
    """The counts once so many packets were sent and each has met its fate."""
    counts = [link.counts()]

    def met() -> bool:
        counts[0] = now = link.counts()
        return now.carried - now.doubled + now.lost + now.stopped == packets and not now.under_way

    command.until(f"{packets} packets to settle", met, 5.0)
    return counts[0]


def test_a_partition_stops_what_is_under_way_and_what_is_sent() -> None:
    if not can(tunlink):
        return
    with tunlink.Link(5, delay_ms=(150, 150)) as link, datagrams(link) as (near, far):
        near.sendto(b"under way", far.getsockname())
        command.until("it to be under way", lambda: link.counts().under_way == 1, 5.0)
        link.partition(back=False)
        assert settled(link, 1).stopped == 1
        near.sendto(b"sent", far.getsockname())
        command.until("it to be stopped", lambda: link.counts() != settled_at(1), 5.0)
        assert link.counts() == settled_at(2), "at once: the end of the partition frees nothing"
        link.heal()
        near.sendto(b"arrives", far.getsockname())
        assert far.recv(100) == b"arrives"


def settled_at(stopped: int) -> tunlink.Counts:
    return tunlink.Counts(stopped=stopped)


@contextlib.contextmanager
def datagrams(link: tunlink.Link) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket on each side. A program on the far side opens that one and hands it over."""
    here, there = socket.socketpair()
    code = (
        "import socket, sys; near = socket.socket(fileno=int(sys.argv[2]));"
        "far = socket.socket(type=socket.SOCK_DGRAM); far.bind((sys.argv[1], 0));"
        "socket.send_fds(near, [b'.'], [far.fileno()])"
    )
    words = [*link.server_prefix(), sys.executable, "-I", "-c", code, link.address]
    with here, there:
        subprocess.run([*words, str(there.fileno())], check=True, pass_fds=[there.fileno()])
        _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
    near = socket.socket(type=socket.SOCK_DGRAM)
    with near, socket.socket(fileno=descriptors[0]) as far:
        far.settimeout(5)
        yield near, far


def test_links_stand_side_by_side_and_nothing_stays() -> None:
    if not can(tunlink):
        return
    with tunlink.Link(6) as one, tunlink.Link(7) as other:
        assert len({one.address, other.address, one.near_address, other.near_address}) == 4
        one.partition()
        with echo(other) as connection:
            round_trip_ms(connection)
    third = tunlink.Link(8)
    with pytest.raises(ZeroDivisionError), third:
        assert is_here(third.near_address)
        _ = 1 // 0
    for link in (one, other, third):
        command.until("the devices to go", lambda link=link: not is_here(link.near_address), 5.0)


def is_here(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from chaos.machine import tunlink
with tunlink.Link(0) as link:
    print(link.near_address)
    input()
"""


def test_a_link_does_not_outlive_who_made_it() -> None:
    if not can(tunlink):
        return
    with python(HOLDER, str(Path(chaos.__file__).parents[1])) as holder:
        address = holder.hear()
        assert is_here(address)
        holder.end()
        command.until("the devices to go", lambda: not is_here(address), 5.0)


def test_a_link_without_its_process_says_so() -> None:
    if not can(tunlink):
        return
    with tunlink.Link(9) as link:
        assert link._pump is not None
        link._pump.kill()
        link._pump.wait()
        with pytest.raises(command.Refused, match="has ended"):
            link.heal()


def test_a_server_behind_a_link(tmp_path: Path) -> None:
    if not can(tunlink):
        return
    with tunlink.Link(10) as link:
        prefix = link.server_prefix()
        server = Server(tmp_path / "book", prefix=prefix, allow_plaintext=True)
        server.address = f"{link.address}:0"
        with contextlib.closing(server):
            server.start()
            link.change(delay_ms=(20, 25), loss=0.01)
            began = time.monotonic()
            assert serves(server.address)
            assert time.monotonic() - began > 4 * 0.04, "connect, register and two requests"
            link.change(delay_ms=(0, 0), loss=0)
            assert server.terminate() == Exit.OK, "the process id is the server's"
