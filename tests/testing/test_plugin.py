"""The fixture `tricorn_server`, as a user's tests see it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tricorn import Server, State
from tricorn.strategies import Fork, Sync
from tricorn.transports import UDP, Memory

Serve = Callable[..., Server]


def shout(connection: Any) -> None:
    while data := connection.recv(100):
        connection.send(data.upper())


def print_back(packet: Any) -> None:
    packet.reply(packet.data)


def ask(server: Server) -> bytes:
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(b"hello")
        return client.recv(100)


def test_serves(tricorn_server: Serve) -> None:
    """Given a handler it serves it over TCP at once, on the loopback interface."""
    server = tricorn_server(shout)
    assert server.state is State.SERVING
    assert server.address[0] == "127.0.0.1"
    assert ask(server) == b"HELLO"


def test_several(tricorn_server: Serve) -> None:
    """It can be called again, for servers beside each other."""
    first, second = tricorn_server(shout), tricorn_server(shout)
    assert first.address != second.address
    assert ask(first) == ask(second) == b"HELLO"


def test_parts(tricorn_server: Serve) -> None:
    """Transport, dispatcher and options can be given."""
    refused: list[object] = []
    server = tricorn_server(shout, Memory(), Sync(), verify=lambda request: refused.append(request), log=False)
    with server.transports[0].connect() as client:
        assert client.recv(100) == b""
    assert len(refused) == 1


def test_keywords_and_names(tricorn_server: Serve) -> None:
    """The parts can be given by keyword, and by name."""
    server = tricorn_server(print_back, transport="udp://127.0.0.1:0", dispatcher="thread?limit=2")
    assert isinstance(server.transports[0], UDP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"packet", server.address)
        assert client.recv(100) == b"packet"


def test_forks(tricorn_server: Serve) -> None:
    """It serves with a dispatcher that forks, too."""
    assert ask(tricorn_server(shout, dispatcher=Fork())) == b"HELLO"


def test_stopped_by_the_test(tricorn_server: Serve) -> None:
    """The test may stop the server itself."""
    server = tricorn_server(shout)
    assert ask(server) == b"HELLO"
    assert server.drain().completed == 1


def test_connected_at_the_end(tricorn_server: Serve) -> None:
    """A client that is still connected does not hold the end up."""
    server = tricorn_server(shout)
    client = socket.create_connection(server.address, timeout=10)
    client.sendall(b"hello")
    assert client.recv(100) == b"HELLO"
    client.close()


CLEAN = """
    import socket, threading

    def echo(connection):
        connection.send(connection.recv(100))

    def test_clean(tricorn_server):
        with socket.create_connection(tricorn_server(echo).address) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
"""

LEAKING = """
    import os, subprocess, threading

    kept = []

    def test_descriptor(tricorn_server):
        tricorn_server(print)
        kept.append(os.dup(0))

    def test_thread(tricorn_server):
        tricorn_server(print)
        threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

    def test_child(tricorn_server):
        tricorn_server(print)
        kept.append(subprocess.Popen(["sleep", "60"]))
"""


def test_leaks_are_errors(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves a descriptor, a thread or a child behind ends in an error that says which."""
    monkeypatch.setenv("COLUMNS", "200")
    pytester.makeconftest("import tricorn.testing.leaks as leaks; leaks.PATIENCE_S = 0.05")
    pytester.makepyfile(test_clean=CLEAN, test_leaking=LEAKING)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines(
        [
            "ERROR*::test_descriptor - *LeftBehind: left behind: descriptor*",
            "ERROR*::test_thread - *LeftBehind: left behind: thread*forgotten*",
            "ERROR*::test_child - *LeftBehind: left behind: child process*sleep*",
        ]
    )


def test_failures_stay_failures(pytester: pytest.Pytester) -> None:
    """A test that fails for its own reasons fails with them, and its server is stopped."""
    pytester.makepyfile(
        """
        import pytest

        def test_fails(tricorn_server):
            tricorn_server(print)
            assert 1 == 2

        def test_wrong_option(tricorn_server):
            with pytest.raises(ValueError, match="drain_timeout"):
                tricorn_server(print, drain_timeout=-1)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)


def test_listed(pytester: pytest.Pytester) -> None:
    """``pytest --fixtures`` shows it with its description."""
    result = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["tricorn_server*", "*Call it with a handler to get a server that serves*"])


def test_light() -> None:
    """Loading the plugin imports nothing of Tricorn but the two empty packages, and no heavy module."""
    text = """
        import sys, pytest
        before = set(sys.modules)
        import tricorn.testing.pytest_plugin
        print(*sorted(set(sys.modules) - before))
    """
    code = "\n".join(line.strip() for line in text.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tricorn", "tricorn.testing", "tricorn.testing.pytest_plugin"]
