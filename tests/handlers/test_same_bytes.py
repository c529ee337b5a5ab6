"""One message handler under every dispatcher and over every transport: the same bytes come out.

What they are is said by a `Conversation` that is fed by hand.  Each server is started once, and given the same input in
pieces that are cut at every possible place; a new dispatcher needs a line in `DISPATCHERS`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricorn import Server, strategies
from tricorn.contracts import Dispatcher
from tricorn.handlers import Chunks, FixedSize, LengthPrefixed, Lines, RecordMarked, message
from tricorn.messages import Framing
from tricorn.strategies import Asyncio, Executor, Fork, ProcessPool, Selector, Sync, Thread, ThreadPool
from tricorn.transports import TCP, UDP, Memory, UnixDatagram, UnixStream

DISPATCHERS: dict[str, Callable[[], Dispatcher]] = {
    "sync": Sync,
    "thread": Thread,
    "thread-pool": lambda: ThreadPool(2),
    "thread-pool?park_idle": lambda: ThreadPool(2, park_idle=True),
    "fork": Fork,
    "process-pool": lambda: ProcessPool(2),
    "process-pool of threads": lambda: ProcessPool(2, inner=ThreadPool(2, park_idle=True)),
    "process-pool of selectors": lambda: ProcessPool(2, inner=Selector()),
    "selector": Selector,
    "selector, sync": lambda: Selector(then=Sync()),
    "selector, thread": lambda: Selector(then=Thread()),
    "selector, thread-pool": lambda: Selector(then=ThreadPool(2)),
    "selector, fork": lambda: Selector(then=Fork()),
    "selector, process-pool": lambda: Selector(then=ProcessPool(2)),
    "asyncio": Asyncio,
    "executor": lambda: Executor(kind="thread", workers=2),
}
#: Those for which each connection is a process more.
SLOW = {"fork", "selector, fork"}
#: Nobody serves messages, or not by itself.
ELSEWHERE = {"Route", "Dask"}

FRAMINGS: dict[str, Framing] = {
    "lines": Lines(8, error_reply=b"too long\n"),
    "prefixed": LengthPrefixed(1, max_length=8, error_reply=b"\0"),
    "records": RecordMarked(8),
}


def answer(request: bytes) -> Any:
    """Nothing for nothing, several for ``b``, and a failure in the middle of several for ``x``."""
    if request.startswith(b"x"):
        return failing(request)
    if request.startswith(b"b"):
        return [request, b"", bytearray(request.upper())]
    return request.upper() or None


def failing(request: bytes) -> Iterator[bytes]:
    """Raise in the middle."""
    yield request
    raise ValueError(request)


HANDLERS = {name: message(framing)(answer) for name, framing in FRAMINGS.items()}


def reference(handler: Any, sent: bytes, *, packet: bool = False) -> bytes:
    """What has to come out."""
    conversation = handler.converse(None)
    replies: bytes = conversation.respond(sent) if sent or packet else b""
    if conversation.error is None:
        replies += conversation.finish(packet=packet)
    return replies


def exchange(client: Any, pieces: list[bytes]) -> bytes:
    """Send the pieces and the end, and return all that comes back."""
    try:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has closed already, as it may after a failure
    received = b""
    while data := receive(client):
        received += data
    return received


def receive(client: Any) -> bytes:
    """Some bytes, or the end."""
    try:
        data: bytes = client.recv(65536)
    except ConnectionError:
        return b""
    return data


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Bytes that mean something to the framing, more or less."""
    words = st.lists(st.sampled_from(b"abx\r"), max_size=9).map(bytes)
    if name == "lines":
        return st.lists(words, max_size=6).map(b"\n".join)
    if name == "prefixed":
        return st.lists(words, max_size=6).map(lambda each: b"".join(bytes([len(word)]) + word for word in each))
    fragments = st.tuples(st.booleans(), words).map(
        lambda each: ((each[0] << 31) | len(each[1])).to_bytes(4, "big") + each[1]
    )
    return st.lists(fragments, max_size=6).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces."""
    edges = [0, *sorted({min(place, len(data)) for place in places}), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


# -- without I/O


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
def test_conversations(name: str, data: st.DataObject) -> None:
    """All ways to drive a conversation give the same bytes and the same end, wherever the input is cut."""
    handler = HANDLERS[name]
    sent = data.draw(inputs(name))
    expected = reference(handler, sent)
    for place in range(len(sent) + 1):
        pieces = [piece for piece in cut(sent, [place]) if piece]
        assert by_responding(handler, pieces) == expected
        assert by_exchanging(handler, pieces) == expected
        assert by_taking_apart(handler, pieces) == expected


def by_responding(handler: Any, pieces: list[bytes]) -> bytes:
    """As event loops do it."""
    conversation, out = handler.converse(None), b""
    for piece in pieces:
        out += conversation.respond(piece)
        if conversation.error is not None:
            return out
    return out + bytes(conversation.finish())


def by_exchanging(handler: Any, pieces: list[bytes]) -> bytes:
    """As threads do it."""
    conversation, out = handler.converse(None), b""
    for piece in [*pieces, b""]:
        out += b"".join(conversation.exchange(piece))
        if conversation.error is not None:
            break
    return out


def by_taking_apart(handler: Any, pieces: list[bytes]) -> bytes:
    """As those do it who have each message worked on elsewhere."""
    conversation = handler.converse(None)
    messages = []
    for piece in [*pieces, b""]:
        if conversation.error is None:
            messages += conversation.decode(piece)
    out = b""
    for each in messages:
        reply, error = conversation.work(each)
        out += reply
        if error is not None:
            return out
    return out + bytes(conversation.farewell())


# -- served


@contextmanager
def serving(dispatcher: str, name: str, folder: Path) -> Iterator[Callable[[int], socket.socket]]:
    """Serve one handler on all transports of the kernel's; yields what makes a client of one of them."""
    place = folder / name
    place.mkdir()
    transports = [TCP(), UnixStream(place / "s"), UDP(), UnixDatagram(place / "d")]

    def connect(which: int) -> socket.socket:
        family = socket.AF_UNIX if which % 2 else socket.AF_INET
        client = socket.socket(family, socket.SOCK_STREAM if which < 2 else socket.SOCK_DGRAM)
        client.settimeout(10)
        if which == 3:
            client.bind("")
        client.connect(server.addresses[which])
        return client

    with Server(transports, DISPATCHERS[dispatcher](), HANDLERS[name], log=False) as server:
        server.start()
        yield connect


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_streams(dispatcher: str, name: str, tmp_path: Path) -> None:
    """Over TCP and Unix sockets, the input cut at any places."""

    @settings(max_examples=4 if dispatcher in SLOW else 12)
    @given(data=st.data(), which=st.integers(0, 1))
    def same(data: st.DataObject, which: int) -> None:
        sent = data.draw(inputs(name))
        pieces = cut(sent, data.draw(st.lists(st.integers(0, 60), max_size=4)))
        with connect(which) as client:
            assert exchange(client, pieces) == reference(HANDLERS[name], sent)

    with serving(dispatcher, name, tmp_path) as connect:
        same()


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_every_place(dispatcher: str, tmp_path: Path) -> None:
    """The same input cut in two at every place, the second half sent when the answer to the first is here."""
    sent = b"a\nbb\r\n\naaaa\nab\nx\n"
    expected = reference(HANDLERS["lines"], sent)
    with serving(dispatcher, "lines", tmp_path) as connect:
        for place in range(0, len(sent), 5 if dispatcher in SLOW else 1):
            first = HANDLERS["lines"].converse(None).respond(sent[:place]) if place else b""
            with connect(0) as client:
                client.sendall(sent[:place])
                heard = b""
                while len(heard) < len(first):
                    heard += client.recv(len(first) - len(heard))
                assert heard + exchange(client, [sent[place:]]) == expected


@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_packets(dispatcher: str, name: str, tmp_path: Path) -> None:
    """One packet is one conversation, and its replies are one packet, over UDP and Unix sockets."""

    @settings(max_examples=3 if dispatcher in SLOW else 8)
    @given(data=st.data(), which=st.integers(2, 3))
    def same(data: st.DataObject, which: int) -> None:
        sent = data.draw(inputs(name))
        expected = reference(HANDLERS[name], sent, packet=True)
        with connect(which) as client:
            client.send(sent)
            if expected:
                assert client.recv(65536) == expected
            else:
                client.send(FRAMINGS[name].encode(b"a"))
                assert client.recv(65536) == FRAMINGS[name].encode(b"A")

    with serving(dispatcher, name, tmp_path) as connect:
        same()


@pytest.mark.parametrize("dispatcher", [name for name in DISPATCHERS if name not in SLOW])
def test_many_messages(dispatcher: str, tmp_path: Path) -> None:
    """Three thousand messages at once are answered in order, by a server that nobody listens to meanwhile."""
    sent = b"".join(b"%d\n" % n for n in range(3000))
    with serving(dispatcher, "lines", tmp_path) as connect, connect(0) as client:
        assert exchange(client, [sent]) == sent


@pytest.mark.parametrize("name", ["sync", "thread", "thread-pool"])
def test_memory(name: str) -> None:
    """Over the transport that is no socket, where the dispatcher needs none."""

    @settings(max_examples=10)
    @given(data=st.data())
    def same(data: st.DataObject) -> None:
        sent = data.draw(inputs("lines"))
        with memory.connect() as client:
            client.settimeout(10)
            pieces = cut(sent, data.draw(st.lists(st.integers(0, 60), max_size=4)))
            assert exchange(client, pieces) == reference(HANDLERS["lines"], sent)

    with Server(memory := Memory(), DISPATCHERS[name](), HANDLERS["lines"], log=False) as server:
        server.start()
        same()


def test_every_dispatcher_is_here() -> None:
    """Every dispatcher that comes with Tricorn, and can serve message handlers, is in the list."""
    there = {type(make()).__name__ for make in DISPATCHERS.values()}
    assert there == set(strategies.__all__) - ELSEWHERE


# -- long messages


@message(LengthPrefixed(max_length=2_000_000))
def backwards(request: bytes) -> bytes:
    """A long answer to a long message."""
    return request[::-1]


@pytest.mark.parametrize("name", DISPATCHERS)
def test_long_messages(name: str) -> None:
    """A message of a megabyte gets a reply of a megabyte."""
    body = bytes(range(256)) * 4096
    with Server(TCP(), DISPATCHERS[name](), backwards) as server:
        server.start()
        with socket.create_connection(server.address, timeout=10) as client:
            for length in (0, 60_000, 60_001, 200_000, 250_000, len(body)):
                client.sendall(length.to_bytes(4, "big") + body[:length])
                with client.makefile("rb") as file:
                    assert file.read(4 + length) == length.to_bytes(4, "big") + body[:length][::-1]
        assert server.drain().completed == 1


@pytest.mark.parametrize("name", DISPATCHERS)
@pytest.mark.parametrize("framing", [Chunks(), FixedSize(4)], ids=["chunks", "fixed"])
def test_without_an_end_of_their_own(name: str, framing: Framing) -> None:
    """Chunks are whatever arrived, so only their sum is the same; messages of a fixed size are as all others."""
    if name in SLOW and isinstance(framing, FixedSize):
        return
    with Server(TCP(), DISPATCHERS[name](), message(framing)(bytes.upper), log=False) as server:
        server.start()
        with socket.create_connection(server.address, timeout=10) as client:
            assert exchange(client, [b"abc", b"def", b"gh"]) == b"ABCDEFGH"
