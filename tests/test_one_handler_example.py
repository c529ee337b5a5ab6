"""One handler over every transport and under every dispatcher: examples/one_handler.py, by changing one argument."""

from __future__ import annotations

import importlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from tricorn import Server

EXAMPLE = Path(__file__).parents[1] / "examples" / "one_handler.py"
PATIENCE_S = 20
QUESTION, ANSWER = b"2 3 add\n4 5 mul\nnonsense\n", b"5\n20\nerror: write two whole numbers and add, sub or mul\n"
TRANSPORTS = {
    "tcp": "tcp://127.0.0.1:0",
    "tls": "tls+tcp://127.0.0.1:0?certfile={folder}/cert.pem&keyfile={folder}/key.pem",
    "udp": "udp://127.0.0.1:0",
    "unix": "unix:{folder}/stream.sock",
    "unixgram": "unixgram:{folder}/packet.sock",
}
DISPATCHERS = (
    "sync",
    "thread",
    "thread-pool?workers=2",
    "thread-pool?workers=2&park_idle=true",
    "fork",
    "process-pool?workers=1",
    "selector",
    "selector?then=thread-pool%3Fworkers%3D2",
    "selector?then=fork",
    "selector?then=process-pool%3Fworkers%3D1",
    "asyncio",
    "executor?workers=2",
)
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def handler() -> Iterator[Any]:
    """The example's, as a module that can be imported: executors with processes look for it by name."""
    resource_tracker.ensure_running()  # the standard library's, one for each program: it outlives whatever needs it
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE.parent))
        yield importlib.import_module("one_handler").calculate
        del sys.modules["one_handler"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A folder with a certificate, and what a client needs to trust it."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("tls")
    issuer = trustme.CA()
    certificate = issuer.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    context = ssl.create_default_context()
    issuer.configure_trust(context)
    return folder, context


@contextmanager
def client(kind: str, address: Any, folder: Path, context: ssl.SSLContext) -> Iterator[Any]:
    """A connected client of a transport."""
    packets = kind in ("udp", "unixgram")
    family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if packets else socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        if kind == "unixgram":
            sock.bind(str(folder / "client.sock"))
        sock.connect(address)
        if kind != "tls":
            yield sock
            return
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as wrapped:
            yield wrapped


def ask(sock: Any) -> bytes:
    """One packet, or as many bytes as the answer has."""
    sock.sendall(QUESTION)
    answer: bytes = sock.recv(1000)
    while sock.type == socket.SOCK_STREAM and len(answer) < len(ANSWER) and (more := sock.recv(1000)):
        answer += more
    return answer


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_one_handler_everywhere(handler: Any, authority: Any, tmp_path: Path, kind: str, dispatcher: str) -> None:
    """The same bytes come back."""
    folder, context = authority
    location = TRANSPORTS[kind].format(folder=folder if kind == "tls" else tmp_path)
    with Server(location, dispatcher, handler) as server:
        server.start()
        with client(kind, server.address, tmp_path, context) as sock:
            assert ask(sock) == ANSWER
        assert server.drain().clean


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_the_example_runs(authority: Any, tmp_path: Path, kind: str) -> None:
    """As its docstring says, until SIGTERM."""
    folder, context = authority
    location = TRANSPORTS[kind].format(folder=folder if kind == "tls" else tmp_path)
    command = [sys.executable, EXAMPLE, location, "selector"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = eval(process.stdout.readline().removeprefix("Serving on ").partition(" with ")[0])  # noqa: S307
        except SyntaxError:
            address = str(tmp_path / ("stream.sock" if kind == "unix" else "packet.sock"))
        with client(kind, address, tmp_path, context) as sock:
            assert ask(sock) == ANSWER
        process.terminate()
        assert "drained" in process.stdout.read()
    assert process.returncode == 0
