"""Sockets from a service manager, or from what stands in for one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
    import os, subprocess, sys
    from tricorn import Server
    from tricorn.strategies import *
    from tricorn.transports import Inherited

    def handle(request):
        if hasattr(request, "reply"):
            request.reply(request.data.upper())
        else:
            request.send(request.recv(100).upper())

    transports = eval(sys.argv[1])
    server = Server(transports, eval(sys.argv[2]), handler=handle)
    given = {name for name in os.environ if name.startswith("LISTEN_")}
    server.bind()
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    inheritable = [os.get_inheritable(3 + place) for place in range(int(sys.argv[3]))]
    print((sorted(given), left, inheritable, server.addresses), flush=True)
    print(server.serve_forever(signals=True), flush=True)
"""


@pytest.mark.parametrize("dispatcher", ["ThreadPool(4)", "Fork()", "ProcessPool(2)"])
def test_sockets_of_a_service_manager(
    dispatcher: str, service_manager: Any, sockets: Any, dial: Any, tmp_path: Any
) -> None:
    """Streams and packets, of two names, one of which has three; nothing of it is left for programs started later."""
    web, again, unix, packets = sockets(), sockets(), sockets(socket.AF_UNIX), sockets(kind=socket.SOCK_DGRAM)
    program = service_manager.start(
        PROGRAM, "[Inherited('web'), Inherited('dns')]", dispatcher, 4,
        sockets=[web, again, unix, packets], names="web:web:web:dns",
    )  # fmt: skip
    names, left, inheritable, addresses = eval(program.stdout.readline())
    assert names == ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID"]
    assert left == []
    assert not any(inheritable)
    assert addresses == tuple(sock.getsockname() for sock in (web, again, unix, packets))
    for address in addresses[:3]:
        client = dial(address)
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    client = dial(addresses[3], socket.SOCK_DGRAM)
    client.send(b"packet")
    assert client.recv(100) == b"PACKET"
    program.send_signal(signal.SIGTERM)
    assert "4 accepted, 4 completed" in program.stdout.read()
    assert program.wait(20) in (0, -signal.SIGTERM)
    assert (tmp_path / "s").exists()


def test_who_waits_is_served_by_the_next_process(service_manager: Any, sockets: Any, dial: Any) -> None:
    """The socket outlives its servers."""
    web = sockets()
    first = service_manager.start(PROGRAM, "Inherited('unknown')", "ThreadPool(4)", 1, sockets=[web])
    served = dial(web.getsockname())
    served.sendall(b"hello")
    assert served.recv(100) == b"HELLO"
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) in (0, -signal.SIGTERM)
    client = dial(web.getsockname())
    client.sendall(b"hello")
    service_manager.start(PROGRAM, "Inherited('unknown')", "ThreadPool(4)", 1, sockets=[web])
    assert client.recv(100) == b"HELLO"


MIXED = """
    from tricorn.errors import ConfigurationError
    from tricorn.transports import Inherited

    try:
        Inherited("dns")
    except ConfigurationError as error:
        print(error)
    try:
        Inherited("web")
    except ConfigurationError as error:
        print(error)
    print(Inherited("dns", only="stream").kind, Inherited("dns", only="datagram").kind)
    for listener in Inherited("dns", only="stream").listen():
        listener.close()
    (again,) = Inherited("dns", only="datagram").listen()
    print(again.address)
"""


def test_both_kinds_under_one_name(service_manager: Any, sockets: Any) -> None:
    """As a socket unit may well have them: one has to say which; and what was given is known to later ones as well."""
    packets = sockets(kind=socket.SOCK_DGRAM)
    program = service_manager.start(MIXED, sockets=[sockets(), packets], names="dns:dns")
    said = program.communicate(timeout=20)[0].splitlines()
    assert "sockets of both kinds have that name" in said[0]
    assert said[1].endswith("no socket of that name; it was given 'dns'")
    assert said[2:] == ["Kind.STREAM Kind.DATAGRAM", str(packets.getsockname())]


def test_sockets_for_another_process(service_manager: Any, sockets: Any) -> None:
    """Such as a shell that started this one: refused."""
    program = service_manager.start(
        """
        from tricorn.transports import Inherited
        try:
            Inherited("unknown")
        except ValueError as error:
            print(error)
        """,
        sockets=[sockets()], LISTEN_PID="1",
    )  # fmt: skip
    assert "LISTEN_PID is 1, and this process is" in program.communicate(timeout=20)[0]


def test_on_the_command_line(service_manager: Any, sockets: Any, dial: Any) -> None:
    """``tricorn serve inherited:web``."""
    pytest.importorskip("click", reason="the extra 'cli' is not installed")
    web = sockets()
    program = service_manager.start("tricorn", "serve", "inherited:web", "echo", sockets=[web], names="web")
    assert program.stdout.readline().startswith("serving inherited:")
    client = dial(web.getsockname())
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    program.send_signal(signal.SIGTERM)
    assert program.wait(20) in (0, -signal.SIGTERM)


ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.mark.skipif(
    ACTIVATE is None, reason="there is no systemd-socket-activate on this machine (apt install systemd)"
)
def test_under_systemds_own_activator(dial: Any, tmp_path: Any) -> None:
    """Which listens, and becomes the server with the first client."""
    pytest.importorskip("click", reason="the extra 'cli' is not installed")
    serve = [sys.executable, "-m", "tricorn", "serve", "inherited:web", "echo", "-d", "fork"]
    path = str(tmp_path / "web")
    with subprocess.Popen(
        [str(ACTIVATE), "-l", path, "--fdname=web", *serve],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    ) as program:  # fmt: skip
        try:
            assert program.stderr is not None
            assert "Listening on" in program.stderr.readline()
            client = dial(path)
            client.sendall(b"hello")
            assert client.recv(100) == b"hello"
            client.close()
            program.send_signal(signal.SIGTERM)
            assert "1 accepted, 1 completed" in program.communicate(timeout=20)[0]
        finally:
            program.kill()
    assert os.path.exists(path)
