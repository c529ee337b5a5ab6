"""D. Clients of streams, and what they do."""

from __future__ import annotations

import os
import selectors
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import monotonic, sleep

from scenario import ONE_AT_A_TIME, scenario
from subject import Failure, Subject, read_line, until

ALONE = "it has one request at a time"
RESETS = struct.pack("ii", 1, 0)


def _leaves_nothing(server: Subject, storm: Callable[[], None]) -> None:
    """Twice: the first fills pools and tables, after the second there must be no more than after the first."""
    storm()
    server.expect(timeout=10.0)
    seen: list[int] = []
    until(lambda: seen.append(server.descriptors()) or len(set(seen[-30:])) == 1 < len(seen) - 29, "it is at rest")
    storm()
    server.expect(timeout=10.0)
    if "Traceback" in server.log():
        raise Failure(f"it complains: {server.log()[:400]!r}")
    until(lambda: server.descriptors() <= seen[-1] + 2, "the descriptors are given back")
    until(lambda: server.threads() <= 80, "the threads end")
    until(lambda: not server.zombies(), "children are reaped")


@scenario(41, "resets in mid-request", quick=True)
def resets(dispatcher: str) -> None:
    """Are no news, and leave nothing behind."""
    with Subject(dispatcher) as server:

        def storm() -> None:
            for number in range(60):
                with server.call() as client:
                    client.sendall(b"half a line" if number % 2 else b"big 1000000\n")
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)

        _leaves_nothing(server, storm)


@scenario(42, "half a close", quick=True)
def half_close(dispatcher: str) -> None:
    """The reply still comes."""
    with Subject(dispatcher) as server, server.call() as client:
        client.sendall(b"sleep 0.2\n")
        client.shutdown(socket.SHUT_WR)
        if read_line(client) != b"slept":
            raise Failure("no reply")


@scenario(43, "many that trickle", but=ONE_AT_A_TIME, why=ALONE, quick=True)
def slowloris(dispatcher: str) -> None:
    """Others are served meanwhile, or as soon as those are cut off, which is at their deadline."""
    holds = "selector" in dispatcher or "park" in dispatcher or "asyncio" in dispatcher
    many = 300 if holds else 120
    limits = '{"read": 2.0, "first_byte": 2.0}'
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--deadlines", limits) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.call()) for _ in range(many)]
        began = monotonic()
        for client in clients:
            client.sendall(b"x")
        if holds:
            server.expect(timeout=3.0)
        live = set(clients)
        while live and monotonic() - began < 20:
            live = {client for client in live if _trickle(client)}
            sleep(0.1)  # a byte now and then
        if live:
            raise Failure(f"{len(live)} of {many} are still there after 20 s")
        server.expect()


def _trickle(client: socket.socket) -> bool:
    """True while it is not cut off."""
    try:
        client.sendall(b"x")
        client.setblocking(False)
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        client.settimeout(10)


@scenario(44, "some that do not read", but=ONE_AT_A_TIME, why=ALONE, quick=True)
def never_reading(dispatcher: str) -> None:
    """Are cut off at their deadline, and memory does not follow."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--deadlines", '{"write": 1.0}') as server, ExitStack() as stack:
        server.expect()
        for _ in range(6):
            stack.enter_context(server.call()).sendall(b"big 20000000\n")
        server.expect()
        until(lambda: _all_cut(server), "they are cut off", 10.0)


def _all_cut(server: Subject) -> bool:
    with open("/proc/net/tcp") as file:
        port = f":{server.address[1]:04X}"
        return sum(port in line.split()[1] and line.split()[3] == "01" for line in file.readlines()[1:]) == 0


@scenario(45, "more than there is room for", but=ONE_AT_A_TIME, why=ALONE, quick=True)
def flood(dispatcher: str) -> None:
    """The rest waits in the kernel; threads and children are bounded; there is room when they leave."""
    with Subject(dispatcher) as server:
        server.expect()
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(server.call())
            if server.threads() > 80 or len(server.children()) > 45:
                raise Failure(f"{server.threads()} threads, {len(server.children())} children")
        server.expect()


@scenario(46, "300 at once", quick=True)
def burst(dispatcher: str) -> None:
    """Each is served."""
    with Subject(dispatcher) as server, ExitStack() as stack, selectors.DefaultSelector() as waiting:
        server.expect()
        for _ in range(300):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(server.address)
            waiting.register(client, selectors.EVENT_WRITE)
        served, began = 0, monotonic()
        while served < 300 and monotonic() - began < 15:
            for key, events in waiting.select(1.0):
                client = key.fileobj
                if events & selectors.EVENT_WRITE:
                    client.send(b"a\n")
                    waiting.modify(client, selectors.EVENT_READ)
                else:
                    served += client.recv(10) == b"a\n"
                    waiting.unregister(client)
                    client.close()
        if served < 300:
            raise Failure(f"{served} of 300 were served in {monotonic() - began:.1f} s")


@scenario(47, "connect and leave, 500 times", quick=True)
def port_scan(dispatcher: str) -> None:
    """Is no news, and leaves nothing behind."""
    with Subject(dispatcher) as server:

        def storm() -> None:
            for _ in range(250 if "fork" not in dispatcher else 80):
                with server.call():
                    pass

        _leaves_nothing(server, storm)


@scenario(48, "garbage, and a line without an end", quick=True)
def garbage(dispatcher: str) -> None:
    """Costs no memory beyond the longest line that there may be."""
    with Subject(dispatcher) as server:
        server.expect()
        before = server.memory()
        with server.call() as client, suppress(OSError):
            client.sendall(os.urandom(100_000))
        with server.call() as client, suppress(OSError):
            for _ in range(32):
                client.sendall(b"x" * 1_000_000)
        grown = server.memory() - before
        if grown > 40_000_000:
            raise Failure(f"it grew by {grown:,} bytes")
        server.expect()


@scenario(49, "an urgent byte", quick=True)
def urgent(dispatcher: str) -> None:
    """Is ignored, and nothing spins."""
    with Subject(dispatcher) as server, server.call() as client:
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"a\n")
        if read_line(client) != b"a":
            raise Failure("no reply, or the urgent byte in it")


@scenario(50, "one byte at a time", quick=True)
def fragments(dispatcher: str) -> None:
    """Is a request as any other."""
    with Subject(dispatcher) as server, server.call() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"fragments\n":
            client.sendall(bytes([byte]))
        if read_line(client) != b"fragments":
            raise Failure("no reply")


@scenario(
    53, "one address that takes all", but=ONE_AT_A_TIME | {"fork"}, why="see tests/server/test_admission.py", quick=True
)
def per_source(dispatcher: str) -> None:
    """Has its share, and others have theirs."""
    with Subject(dispatcher, "tcp://127.0.0.1:0", "--per-peer", "5") as server, ExitStack() as stack:
        held = [stack.enter_context(server.call()) for _ in range(30)]
        for each in held:
            with suppress(OSError):
                each.sendall(b"a\n")
        answers = [_said(each) for each in held]
        room = 5 * max(1, len(server.children()))
        if not 1 <= answers.count(b"a") <= room:
            raise Failure(f"{answers.count(b'a')} were let in, and there was room for {room}")
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(5)
            other.connect(server.address)
            other.sendall(b"other\n")
            if read_line(other) != b"other":
                raise Failure("another address was not served")


def _said(client: socket.socket) -> bytes:
    try:
        return read_line(client)
    except OSError:
        return b""
