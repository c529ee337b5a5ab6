"""E. Packets."""

from __future__ import annotations

import socket

from scenario import scenario
from subject import Failure, Subject

UDP = frozenset({"sync", "thread", "pool", "fork", "procs", "procs+threads", "selector", "selector+pool"})
WHY = "its handler here is for connections; packets are in tests/strategies/test_asyncio_messages.py"


def _ask(server: Subject, data: bytes, timeout: float = 5.0) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect(server.address)
        client.send(data)
        try:
            return client.recv(65536).rstrip()
        except OSError:
            return b""


@scenario(54, "a packet of no bytes", on=UDP, why=WHY, quick=True)
def empty_packet(dispatcher: str) -> None:
    """Is a packet: the next one is served as well."""
    with Subject(dispatcher, "udp://127.0.0.1:0") as server:
        _ask(server, b"", 0.2)
        if _ask(server, b"a") != b"a":
            raise Failure("no reply after it")


@scenario(55, "a packet that is too long", on=UDP, why=WHY, quick=True)
def long_packet(dispatcher: str) -> None:
    """Is never cut in silence: refused, and counted."""
    with Subject(dispatcher, "udp://127.0.0.1:0?max_packet_size=1000") as server:
        if _ask(server, b"x" * 5000, 0.5):
            raise Failure("it was served, cut")
        if _ask(server, b"a") != b"a":
            raise Failure("no reply after it")
        server.logged("longer than max_packet_size")


@scenario(56, "a reply to a port where nobody is", on=UDP, why=WHY, quick=True)
def dead_port(dispatcher: str) -> None:
    """Costs the next client nothing."""
    with Subject(dispatcher, "udp://127.0.0.1:0") as server:
        for _ in range(5):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"sleep 0.05", server.address)
        if _ask(server, b"a") != b"a":
            raise Failure("no reply after it")


@scenario(58, "more packets than it can work on", on=UDP, why=WHY, quick=True)
def packet_flood(dispatcher: str) -> None:
    """What runs at once is bounded."""
    with Subject(dispatcher, "udp://127.0.0.1:0") as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(600):
                client.sendto(b"sleep 0.01", server.address)
            threads, children = server.threads(), len(server.children())
        if threads > 80 or children > 45:
            raise Failure(f"{threads} threads, {children} children")
        for _ in range(10):
            if _ask(server, b"a", 2.0) == b"a":
                return
        raise Failure("no reply after it")


@scenario(59, "a handler that raises", on=UDP, why=WHY, quick=True)
def raising(dispatcher: str) -> None:
    """Costs its packet."""
    with Subject(dispatcher, "udp://127.0.0.1:0") as server:
        for _ in range(3):
            if _ask(server, b"raise", 0.2):
                raise Failure("there was a reply")
        if _ask(server, b"a") != b"a":
            raise Failure("no reply after it")
        server.logged("ValueError: bad", 3)
