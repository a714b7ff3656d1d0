"""A link to a network of its own, that delays, loses, doubles and stops packets by a seed.

Real TCP of the real kernel runs over it: retransmission, back-off and keep-alive are what they
are in the world. A network namespace is made that is reached from here only through two TUN
devices with a process between them that carries the packets (`tunpump.py`). A server is started
inside with `server_prefix()` and reached at `address`; both sides may be swapped, as the link is
the same from both. The namespace and the devices have no name that could be left behind: the
kernel takes them away when the last descriptor closes, also after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import ipaddress
import itertools
import json
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.machine import tunpump
from chaos.machine.command import Refused, run, why_not
from chaos.machine.tunpump import Conditions, Counts

__all__ = ["Conditions", "Counts", "Link", "missing"]

# Set aside for tests of networks (RFC 2544): nobody routes it.
NETWORK = ipaddress.ip_network("198.18.0.0/15")
PREFIX_BITS = 30
PAIRS = 1 << PREFIX_BITS - NETWORK.prefixlen
MTU_BYTES = 1500
QUEUE_PACKETS = 5000
ANSWER_SECONDS_MAX = 10.0
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x1, 0x1000
_numbers = itertools.count()


class Link:
    """A slow link while the `with` lasts; `conditions` are those of `Conditions`.

    Each way is delayed by itself: a round trip of 80 to 100 ms is `delay_ms=(40, 50)`.
    """

    def __init__(self, seed: int, **conditions: Any) -> None:
        self.seed = seed
        self.address = self.near_address = ""
        self._conditions = Conditions(**conditions)
        self._namespace = -1
        self._pump: subprocess.Popen[bytes] | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Link:
        with contextlib.ExitStack() as undo:
            self._namespace = undo.enter_context(_namespace())
            (near, near_name), (far, far_name) = (
                undo.enter_context(_tun()),
                undo.enter_context(_tun()),
            )
            run("ip", "link", "set", far_name, "netns", self._namespace_path())
            self.near_address, self.address = _free_pair()
            run("ip", "-batch", "-", text=_up(near_name, self.near_address))
            inside = "link set lo up\n" + _up(far_name, self.address)
            run(*self.server_prefix(), "ip", "-batch", "-", text=inside)
            undo.callback(self._stop)
            self._pump = subprocess.Popen(
                [sys.executable, "-I", tunpump.__file__, str(near), str(far), str(self.seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=(near, far),
                start_new_session=True,  # Ctrl-C is for who decides what comes next
            )
            self.change()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def server_prefix(self) -> list[str]:
        """What goes before a command, so that it runs on the far side; it keeps its process id."""
        return ["nsenter", f"--net={self._namespace_path()}"]

    def change(self, **conditions: Any) -> Counts:
        """Other conditions, in force when this returns; those that are not named stay."""
        self._conditions = dataclasses.replace(self._conditions, **conditions)
        assert self._pump is not None and self._pump.stdin is not None
        assert self._pump.stdout is not None
        try:
            self._pump.stdin.write(
                json.dumps(dataclasses.asdict(self._conditions)).encode() + b"\n"
            )
        except BrokenPipeError:
            raise Refused("the link's process has ended") from None
        if not select.select([self._pump.stdout], [], [], ANSWER_SECONDS_MAX)[0]:
            raise Refused("the link's process does not answer")
        answer = self._pump.stdout.readline()
        if not answer:
            raise Refused("the link's process has ended")
        return Counts(**json.loads(answer))

    def counts(self) -> Counts:
        """What became of the packets so far."""
        return self.change()

    def partition(self, *, there: bool = True, back: bool = True) -> None:
        """Nothing arrives from this side at the far one (`there`), nor from there (`back`)."""
        self.change(cut=(there, back))

    def heal(self) -> None:
        """The end of the partition; delay and loss stay."""
        self.change(cut=(False, False))

    def _namespace_path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    def _stop(self) -> None:
        if self._pump is None:
            return
        try:
            self._pump.communicate(timeout=ANSWER_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._pump.kill()
            self._pump.communicate()


@contextlib.contextmanager
def _namespace() -> Iterator[int]:
    """A new network namespace, as a descriptor that keeps it."""
    command = ["unshare", "--net", "sh", "-c", "echo made; read end"]
    try:
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise Refused("unshare is not installed") from None
    assert holder.stdout is not None
    made = holder.stdout.readline()
    descriptor = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC) if made else -1
    _, said = holder.communicate(b"\n")
    if not made:
        raise Refused(said.decode(errors="replace").strip() or "no network namespace can be made")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _tun() -> Iterator[tuple[int, str]]:
    """A new TUN device: its descriptor, and the free name that the kernel gave it."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", b"chaos%d", IFF_TUN | IFF_NO_PI)
        name = fcntl.ioctl(descriptor, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
        yield descriptor, name
    finally:
        os.close(descriptor)


def _free_pair() -> tuple[str, str]:
    """Two addresses that this machine does not use; another process begins to look elsewhere."""
    devices = json.loads(run("ip", "-json", "-4", "address", "show"))
    used = {
        ipaddress.ip_interface(f"{one['local']}/{PREFIX_BITS}").network
        for device in devices
        for one in device["addr_info"]
    }
    first = int(NETWORK.network_address)
    for number in range(PAIRS):
        place = (os.getpid() * 64 + next(_numbers) + number) % PAIRS
        pair = ipaddress.ip_network((first + 4 * place, PREFIX_BITS))
        if pair not in used:
            near, far = pair.hosts()
            return str(near), str(far)
    raise Refused(f"every address of {NETWORK} is in use")


def _up(name: str, address: str) -> str:
    return (
        f"address add {address}/{PREFIX_BITS} dev {name}\n"
        f"link set {name} mtu {MTU_BYTES} txqueuelen {QUEUE_PACKETS} up\n"
    )


def _attempt() -> None:
    with Link(0) as link:
        run(*link.server_prefix(), "true")
        link.partition()


def missing() -> str | None:
    """Why there can be no such link here: one is made, and nothing sent over it."""
    if not Path("/dev/net/tun").exists():
        return "link to a network namespace: there is no /dev/net/tun"
    return why_not("link to a network namespace", _attempt)
