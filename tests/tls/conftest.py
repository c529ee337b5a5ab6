"""What the tests of TLS share: an authority, certificates of it in files, and clients that know it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from tricorn import Server
from tricorn.strategies import Fork, ProcessPool, Sync, Thread, ThreadPool
from tricorn.testing.recorder import Recorder
from tricorn.transports import TCP, TLS

#: Seconds after which something that does not come is a failure.
BOUND = 10.0

DISPATCHERS: dict[str, Callable[[], Any]] = {
    "sync": Sync,
    "thread": Thread,
    "thread-pool": lambda: ThreadPool(4),
    "fork": Fork,
    "process-pool": lambda: ProcessPool(2, inner=ThreadPool(4)),
}


class Authority:
    """Issues certificates, each in files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.file)
        self.certfile, self.keyfile = self.issue("localhost", "127.0.0.1")

    def issue(self, *names: str, stem: str = "", **options: Any) -> tuple[str, str]:
        """The paths of a certificate with its chain, and of its key; ``stem`` overwrites files of that name."""
        stem = stem or f"cert-{len(list(self.folder.iterdir()))}"
        issued = self.ca.issue_cert(*names, **options)
        certfile, keyfile = self.folder / f"{stem}.pem", self.folder / f"{stem}.key"
        certfile.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        keyfile.write_bytes(issued.private_key_pem.bytes())
        return str(certfile), str(keyfile)

    def tls(self, inner: Any = None, **options: Any) -> TLS:
        """TLS with our certificate, on a free port unless ``inner`` is given."""
        files = {"certfile": self.certfile, "keyfile": self.keyfile}
        return TLS(inner or TCP("127.0.0.1", 0), **{**files, **options})

    def client(self, **options: Any) -> ssl.SSLContext:
        """A client's context that trusts the authority."""
        context = ssl.create_default_context(cafile=self.file)
        for name, value in options.items():
            setattr(context, name, value)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=DISPATCHERS)
def dispatcher(request: pytest.FixtureRequest) -> Any:
    """Every dispatcher that runs blocking handlers, one after the other."""
    return DISPATCHERS[request.param]()


@pytest.fixture
def recorder() -> Recorder:
    """An observer that keeps what it is told."""
    return Recorder()


@pytest.fixture
def dial(nothing_left_behind: None) -> Iterator[Callable[[Any], socket.socket]]:
    """Connect to a server, or an address, in plain text; the connection is closed at the end of the test."""
    with ExitStack() as opened:

        def connect(server: Any) -> socket.socket:
            address = server.address if isinstance(server, Server) else server
            if isinstance(address, str):
                sock = opened.enter_context(socket.socket(socket.AF_UNIX))
                sock.settimeout(BOUND)
                sock.connect(address)
                return sock
            return opened.enter_context(socket.create_connection(address[:2], timeout=BOUND))

        yield connect


@pytest.fixture
def call(authority: Authority, dial: Any, nothing_left_behind: None) -> Iterator[Callable[..., ssl.SSLSocket]]:
    """Connect and shake hands; ``context`` is the authority's client unless given, ``name`` what is asked for."""
    with ExitStack() as opened:

        def connect(
            server: Any, context: ssl.SSLContext | None = None, name: str | None = "localhost"
        ) -> ssl.SSLSocket:
            context = context or authority.client()
            sock = context.wrap_socket(dial(server), server_hostname=name)
            return opened.enter_context(sock)

        yield connect


@pytest.fixture
def serve(recorder: Recorder, nothing_left_behind: None) -> Iterator[Callable[..., Server]]:
    """Start a server, with the recorder among its observers; it is closed at the end of the test."""
    servers: list[Server] = []

    def start(transport: Any, dispatcher: Any, handler: Any, **options: Any) -> Server:
        server = Server(transport, dispatcher, handler, observers=[recorder], log=False, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()
