"""F. Addresses and files; G. the log, TLS."""

from __future__ import annotations

import os
import re
import signal
import ssl
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from scenario import ONE_AT_A_TIME, scenario
from subject import Failure, Subject, read_line


@scenario(61, "a path that is taken, or stale, or no socket", quick=True)
def unix_paths(dispatcher: str) -> None:
    """A live one is never stolen, a file never deleted, a stale one taken over."""
    with tempfile.TemporaryDirectory() as folder:
        path, plain = f"{folder}/s", f"{folder}/plain"
        Path(plain).write_text("mine")
        with Subject(dispatcher, f"unix:{path}") as server:
            server.expect()
            for wrong in (path, plain):
                with suppress(Failure), Subject(dispatcher, f"unix:{wrong}"):
                    raise SystemError(f"a second server took {wrong}")
            server.expect()
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
        if Path(plain).read_text() != "mine" or not os.path.exists(path):
            raise Failure("a file is gone")
        with Subject(dispatcher, f"unix:{path}") as server:
            server.expect()


@scenario(62, "whose socket file it is, and its end", quick=True)
def unix_file(dispatcher: str) -> None:
    """Nobody's but ours from the first moment, and gone at the end."""
    with tempfile.TemporaryDirectory() as folder, Subject(dispatcher, f"unix:{folder}/s") as server:
        mode = stat.S_IMODE(os.stat(server.address).st_mode)
        if mode != 0o600:
            raise Failure(f"its mode is {mode:o}")
        server.expect()
        server.signal(signal.SIGTERM)
        server.wait(5.0)
        if os.path.exists(server.address):
            raise Failure("the file is left")


@scenario(64, "a record that is to be forged", quick=True)
def forged_log(dispatcher: str) -> None:
    """No control character of anybody's reaches the log, and one event is one record."""
    with Subject(dispatcher) as server:
        server.ask(b"raise")
        server.logged("ValueError")
        lines = server.log()
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lines) or re.search(r"^line", lines, re.MULTILINE):
            raise Failure(f"it has {lines!r}")


@scenario(
    65, "handshakes that stall, and plain text", but=ONE_AT_A_TIME, why="it has one request at a time", quick=True
)
def tls_stalls(dispatcher: str) -> None:
    """Hold up nobody longer than their deadline."""
    import trustme

    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        pem = f"{folder}/server.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
        transport = f"tls+tcp://127.0.0.1:0?certfile={pem}&handshake_timeout=1"
        server = stack.enter_context(Subject(dispatcher, transport))
        for number in range(20):
            client = stack.enter_context(server.call())
            if number % 4 == 0:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            elif number % 4 == 1:
                client.sendall(b"\x16\x03\x01\x02")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with server.call(6.0) as plain, context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"a\n")
            if read_line(client) != b"a":
                raise Failure("not served")
