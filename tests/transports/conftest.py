"""What the transports' tests share."""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from tricorn.errors import ListenError
from tricorn.transports import UnixDatagram, UnixStream


class Loopback:
    """Opens listeners, accepts from them, and closes all at the end."""

    def __init__(self):
        self.listeners = []

    def listen(self, transport):
        """The only listener of ``transport``."""
        (listener,) = self.listen_all(transport)
        return listener

    def listen_all(self, transport):
        """Every listener of ``transport``."""
        listeners = transport.listen()
        self.listeners.extend(listeners)
        return listeners

    def accept(self, listener):
        """The next request; waits until there is one."""
        readable, _, _ = select.select([listener], [], [], 10)
        assert readable, "nothing arrived"
        return listener.accept()


@pytest.fixture
def loopback():
    """Opens listeners and closes them after the test."""
    loopback = Loopback()
    yield loopback
    for listener in loopback.listeners:
        listener.close()


@pytest.fixture
def open_descriptors():
    """Counts this process's descriptors."""
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("descriptors are counted by /proc")
    return lambda: len(os.listdir(folder))


@pytest.fixture
def in_thread():
    """Runs a function in a thread; the returned call waits for its result."""

    def start(function, *args):
        results = []

        def run():
            try:
                results.append((True, function(*args)))
            except Exception as error:
                results.append((False, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def result():
            thread.join(10)
            assert results, "the thread hangs"
            well, value = results[0]
            if not well:
                raise value
            return value

        return result

    return start


@pytest.fixture
def in_child():
    """Runs a function in a forked process; True if it returned something true."""

    def run(function):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if function() else 2
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    return run


# -- for both Unix transports


@pytest.fixture(params=[UnixStream, UnixDatagram], ids=["stream", "datagram"])
def transport(request):
    """Both Unix transports, one after the other."""
    return request.param


@pytest.fixture
def folder(tmp_path):
    """A folder of the test's own."""
    return tmp_path


@pytest.fixture
def mode_of():
    """The permission bits of a path."""
    return lambda path: stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def connected():
    """Connects a client's socket to a path, as a transport's clients do."""

    def connect(transport, path):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if transport is UnixStream else socket.SOCK_DGRAM)
        try:
            client.connect(path)
        except OSError:
            client.close()
            raise
        return client

    return connect


@pytest.fixture
def leave_stale():
    """Makes a socket file that nobody holds, as a killed server leaves it."""

    def make(path, kind=socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(path)

    return make


@pytest.fixture
def refused():
    """The error of listening on a path, which names it."""

    def listen(transport, path, **options):
        with pytest.raises(ListenError) as caught:
            transport(path, **options).listen()
        assert caught.value.address == str(path)
        assert str(path) in str(caught.value)
        return caught.value

    return listen


@pytest.fixture
def sockets(nothing_left_behind: None, tmp_path: Any) -> Any:
    """Makes bound sockets, which listen if they can; closed at the end of the test."""
    with ExitStack() as opened:

        def make(family: Any = socket.AF_INET, kind: Any = socket.SOCK_STREAM, address: Any = ("127.0.0.1", 0)) -> Any:
            sock = opened.enter_context(socket.socket(family, kind))
            sock.bind(str(tmp_path / "s") if family == socket.AF_UNIX and isinstance(address, tuple) else address)
            if kind == socket.SOCK_STREAM:
                sock.listen()
            return sock

        yield make


@pytest.fixture
def dial(nothing_left_behind: None) -> Any:
    """Connect to an address over any stream; closed at the end of the test."""
    with ExitStack() as opened:

        def connect(address: Any, kind: Any = socket.SOCK_STREAM) -> socket.socket:
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            sock = opened.enter_context(socket.socket(family, kind))
            sock.settimeout(20)
            sock.connect(address)
            return sock

        yield connect
