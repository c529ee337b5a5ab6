"""A stage on which a scenario is played twice, with the original's classes and the facade's, and every call noted."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import socketserver as original
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tricorn import socketserver as facade

#: All that is documented to be overridden, and what programs override besides; not ``fileno``, since how often the
#: selector asks for the descriptor is nobody's business.
POINTS = (
    "server_bind", "server_activate", "server_close", "get_request", "verify_request", "process_request",
    "process_request_thread", "finish_request", "shutdown_request", "close_request", "handle_error", "handle_timeout",
    "service_actions", "collect_children", "handle_request", "_handle_request_noblock", "__enter__", "__exit__",
)  # fmt: skip

Notes = dict[str, list[Any]]


class Notebook:
    """Notes that forked children can write in too; apart by who wrote, since their order among each other is chance."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_TRUNC)
        self._owner = (os.getpid(), threading.get_ident())

    def note(self, *what: object) -> None:
        if (os.getpid(), threading.get_ident()) == self._owner:
            role = "main"
        else:
            role = "child" if os.getpid() != self._owner[0] else "thread"
        os.write(self._fd, json.dumps([role, *what]).encode() + b"\n")

    def read(self) -> Notes:
        found: Notes = {}
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd) as file:
            for line in file:
                role, *what = json.loads(line)
                found.setdefault(role, []).append(what)
        return {role: without_idle_turns(notes) for role, notes in found.items()}


def without_idle_turns(notes: list[Any]) -> list[Any]:
    """The loop calls `service_actions` in each turn; turns in which nothing else happened are left out."""
    turns: list[list[Any]] = [[]]
    for note in notes:
        if note[0] == "service_actions":
            turns.append([])
        turns[-1].append(note)
    *others, last = turns
    busy = [turn for turn in others if any(note[0] not in ("service_actions", "collect_children") for note in turn)]
    return [note for turn in [*busy, last] for note in turn]


def plain(value: Any) -> Any:
    """An argument in words that are the same in two runs."""
    if isinstance(value, socket.socket):
        return "a socket"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return "an address"
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode()
    if value is None or isinstance(value, (str, int)):
        return value
    return type(value).__name__


def noting(point: str, book: Notebook, owner: type) -> Callable[..., Any]:
    """A method that notes its call, then passes it on; but for errors, whose report nobody wants to read."""

    def method(self: Any, *args: Any, **options: Any) -> Any:
        book.note(point, plain(args), plain(sorted(options.items())))
        if point == "handle_error":
            book.note(repr(sys.exc_info()[1]))
            return None
        return getattr(super(owner, self), point)(*args, **options)

    return method


class Stage:
    """One of the two modules, one of its server classes, and a notebook."""

    def __init__(self, module: Any, name: str, book: Notebook) -> None:
        self.module = module
        self.name = name
        self.book = book
        self._numbers = itertools.count()
        self.address: Any = "server" if "Unix" in name else ("127.0.0.1", 0)
        datagrams = "UDP" in name or "Datagram" in name
        self.handler_base = module.DatagramRequestHandler if datagrams else module.StreamRequestHandler

    def noting_layer(self, *bases: type) -> Any:
        """A subclass in which each override point is noted; without bases, a mix-in."""
        made: Any = type("Noting", bases, {})
        for point in POINTS:
            if not bases or hasattr(made, point):
                setattr(made, point, noting(point, self.book, made))
        return made

    def server_class(self, **namespace: Any) -> Any:
        """A subclass of a noting one, as programs write them."""
        return type("Server", (self.noting_layer(getattr(self.module, self.name)),), namespace)

    def handler(self, work: Callable[[Any], None]) -> Any:
        """A handler class whose three steps are noted; ``work`` is its `handle`."""
        book = self.book

        class Handler(self.handler_base):  # type: ignore[misc, name-defined]
            def setup(self) -> None:
                book.note("setup", plain(self.request), plain(self.client_address), type(self.server).__name__)
                super().setup()

            def handle(self) -> None:
                book.note("handle", sorted(vars(self)))
                work(self)

            def finish(self) -> None:
                book.note("finish")
                super().finish()

        return Handler

    def server(self, work: Callable[[Any], None], **namespace: Any) -> Any:
        """Bound and activated."""
        return self.server_class(**namespace)(self.address, self.handler(work))

    @contextlib.contextmanager
    def client_of(self, server: Any) -> Iterator[socket.socket]:
        """A client that has sent its line before the server looks."""
        with socket.socket(server.address_family, server.socket_type) as client:
            client.settimeout(20)
            if "UnixDatagram" in self.name:
                client.bind(f"client{next(self._numbers)}")
            client.connect(server.server_address)
            client.send(b"a line\n")
            yield client

    def received(self, client: socket.socket) -> str:
        """What the server sent; nothing where it closed before it had read the line, which kernels call a reset."""
        try:
            return client.recv(100).decode()
        except ConnectionResetError:
            return ""

    def end(self, server: Any) -> Notes:
        """Close it, but not under a thread that still replies; forget the socket files; what was noted."""
        for thread in list(vars(server).get("_threads", ())):
            thread.join()
        server.server_close()
        for name in os.listdir():
            if name.startswith(("server", "client")):
                os.unlink(name)
        return self.book.read()


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``both(scenario, name, ...)`` plays ``scenario(stage, ...)`` on either module, in a directory where Unix sockets
    have short names.  The two must agree."""
    monkeypatch.chdir(tmp_path)
    hook = threading.excepthook
    monkeypatch.setattr(threading, "excepthook", lambda told: told.exc_type is SystemExit or hook(told))

    def play(scenario: Callable[..., Any], name: str, *args: Any, **options: Any) -> Any:
        theirs = scenario(Stage(original, name, Notebook(tmp_path / "notes")), *args, **options)
        ours = scenario(Stage(facade, name, Notebook(tmp_path / "notes")), *args, **options)
        assert ours == theirs
        return ours

    return play
