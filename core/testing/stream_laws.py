"""The laws of transports that yield connections."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from time import sleep
from typing import Any

from tricorn.deadline import Deadline
from tricorn.testing import bounds
from tricorn.testing.bounds import expect, in_thread
from tricorn.testing.stand import Stand

__all__ = ["LAWS"]

_LARGE = 4 << 20
_PEERS = 5


def _read_all(receive: Callable[[int], bytes]) -> bytes:
    return b"".join(iter(lambda: receive(65536), b""))


def _read(receive: Callable[[int], bytes], n: int) -> bytes:
    data = b""
    while len(data) < n and (more := receive(n - len(data))):
        data += more
    return data


def connections_do_not_mix(stand: Stand) -> None:
    """each of several peers has a conversation of its own"""
    with stand.open() as counter:
        clients = {b"%d" % n: counter.client() for n in range(_PEERS)}
        for name, client in clients.items():
            client.sendall(name)
        connections = [counter.accept() for _ in clients]
        for connection in connections:
            connection.send(b"you are " + connection.recv(10))
        for name, client in clients.items():
            heard = _read(client.recv, 9)
            expect(heard == b"you are " + name, f"the peer that said {name!r} got {heard!r}")
        peers = [connection.peer for connection in connections]
        expect(all(peer is not None for peer in peers), "a connection does not know its peer")
        expect(connections[0].local is not None, "a connection does not know its own address")


def the_end_is_seen(stand: Stand) -> None:
    """a connection sees the end of what its peer sends, and the other way round, with the reverse direction open"""
    with stand.open() as counter:
        client, connection = counter.pair()
        client.sendall(b"question")
        client.shutdown(1)
        heard = _read_all(connection.recv)
        expect(heard == b"question", f"before the end the connection got {heard!r}")
        connection.send(b"answer")
        connection.send_eof()
        heard = _read_all(client.recv)
        expect(heard == b"answer", f"after it had ended its side the peer got {heard!r}")


def finishing_ends_the_conversation(stand: Stand) -> None:
    """finish() delivers what was sent and shows the peer the end, even where the handler left a file object open"""
    with stand.open() as counter:
        client, connection = counter.pair()
        file = connection.makefile("wb", buffering=0)
        file.write(b"last words")
        connection.finish(None)
        heard = _read_all(client.recv)
        expect(heard == b"last words", f"the peer of a finished connection got {heard!r}")
        file.close()


def large_data_arrives_whole(stand: Stand) -> None:
    """4 MiB arrive whole in each direction"""
    data = os.urandom(1 << 16) * (_LARGE >> 16)
    with stand.open() as counter:
        client, connection = counter.pair()

        def reflect() -> None:
            connection.send(_read(connection.recv, _LARGE))

        with in_thread(reflect, "a handler that reads and returns 4 MiB"):
            client.sendall(data)
            heard = _read(client.recv, _LARGE)
        expect(heard == data, f"of {_LARGE} bytes {len(heard)} came back, or others")


def a_vanished_peer_is_an_error_or_the_end(stand: Stand) -> None:
    """reading from a peer that has gone ends, or raises ConnectionError"""
    with stand.open() as counter:
        client, connection = counter.pair()
        client.close()
        with suppress(ConnectionError):
            heard = connection.recv(100)
            expect(heard == b"", f"from a peer that has gone came {heard!r}")


def _while_blocked(connection: Any, call: Callable[[], None]) -> bytes:
    """What a reader gets that is in `recv`, or about to be, when ``call`` is made."""
    reading = threading.Event()

    def read() -> bytes:
        reading.set()
        try:
            data: bytes = connection.recv(100)
        except OSError:
            return b""
        return data

    with in_thread(read, "recv() of a handler that should have been woken") as heard:
        expect(reading.wait(bounds.BOUND_S), "a thread did not start")
        call()
    return heard[0]  # type: ignore[no-any-return]


def draining_wakes_an_idle_reader(stand: Stand) -> None:
    """drain() lets a handler that waits for a new request see the end"""
    with stand.open() as counter:
        _, connection = counter.pair()
        heard = _while_blocked(connection, connection.drain)
        expect(heard == b"", f"an idle reader got {heard!r} from a drain")
        expect(connection.draining, "draining is not set after drain()")


def _drained(connection: Any, heard: list[Any]) -> bool:
    """Calls drain() again and again, as a server does, until the reader has ended."""
    until = Deadline.after(bounds.BOUND_S)
    while not heard and not until.expired:
        connection.drain()
        sleep(0.01)
    return bool(heard)


def draining_loses_no_request(stand: Stand) -> None:
    """drain() leaves a request that is under way alone"""
    with stand.open() as counter:
        client, connection = counter.pair()
        client.sendall(b"first half,")
        heard = _read(connection.recv, 11)
        connection.drain()
        client.sendall(b"second half")
        heard += _read(connection.recv, 11)
        expect(heard == b"first half,second half", f"of a request during a drain came {heard!r}")
        connection.send(b"answered")
        heard = _read(client.recv, 8)
        expect(heard == b"answered", f"the answer to a request during a drain was {heard!r}")
        with in_thread(lambda: connection.recv(100), "recv() after the last request of a drain") as last:
            expect(_drained(connection, last), "after its last request a draining connection waits for more")
        expect(last[0] == b"", f"after its last request a draining connection read {last[0]!r}")


def aborting_wakes_any_reader(stand: Stand) -> None:
    """abort() cuts off a handler in the middle of a request, and the peer sees it"""
    with stand.open() as counter:
        client, connection = counter.pair()
        client.sendall(b"half a req")
        _read(connection.recv, 10)
        heard = _while_blocked(connection, connection.abort)
        expect(heard == b"", f"an aborted reader got {heard!r}")
        with suppress(ConnectionError):
            heard = client.recv(100)
            expect(heard == b"", f"the peer of an aborted connection got {heard!r}")


def disowning_says_nothing_to_the_peer(stand: Stand) -> None:
    """disown() closes our copy without a sign to the peer while another process has one"""
    if stand.factory().in_process:
        return
    with stand.open() as counter:
        client, connection = counter.pair()
        copy = os.dup(connection.socket.fileno())
        try:
            connection.disown()
            os.write(copy, b"still here")
            heard = _read(client.recv, 10)
            expect(heard == b"still here", f"the peer of a disowned connection got {heard!r}")
        finally:
            os.close(copy)


LAWS: tuple[Any, ...] = (
    connections_do_not_mix,
    the_end_is_seen,
    finishing_ends_the_conversation,
    large_data_arrives_whole,
    a_vanished_peer_is_an_error_or_the_end,
    draining_wakes_an_idle_reader,
    draining_loses_no_request,
    aborting_wakes_any_reader,
    disowning_says_nothing_to_the_peer,
)
