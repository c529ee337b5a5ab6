"""Sockets that were given to this process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricorn.contracts import Kind
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, ListenError
from tricorn.names import transport
from tricorn.testing import check_transport
from tricorn.transports import Inherited, inherited
from tricorn.transports.inherited import given_descriptors

HERE = str(os.getpid())


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


# -- what the environment says


def test_names_and_descriptors() -> None:
    """In their order, from 3 on; nameless ones are unknown."""
    said = {"LISTEN_PID": HERE, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:dns:web"}
    assert given_descriptors(said) == (("web", 3), ("dns", 4), ("web", 5))
    assert given_descriptors({"LISTEN_PID": HERE, "LISTEN_FDS": "2"}) == (("unknown", 3), ("unknown", 4))
    assert given_descriptors({"LISTEN_PID": HERE, "LISTEN_FDS": "0"}) == ()
    assert given_descriptors({}) == ()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"LISTEN_FDS": "1"}, "LISTEN_PID is ''"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, "LISTEN_PID is 1, and this process is"),
        ({"LISTEN_FDS": "one", "LISTEN_PID": HERE}, "LISTEN_FDS is 'one'"),
        ({"LISTEN_FDS": "-1", "LISTEN_PID": HERE}, "LISTEN_FDS is '-1'"),
        ({"LISTEN_FDS": "٣", "LISTEN_PID": HERE}, "LISTEN_FDS is '٣'"),
        ({"LISTEN_FDS": "9999999999", "LISTEN_PID": HERE}, "LISTEN_FDS is '9999999999'"),
        ({"LISTEN_FDS": "2", "LISTEN_PID": HERE, "LISTEN_FDNAMES": "a"}, "1 names, and LISTEN_FDS is 2"),
    ],
)
def test_an_environment_that_contradicts_itself(said: Any, error: str) -> None:
    """Or is meant for another process, is refused."""
    with pytest.raises(ConfigurationError, match=error):
        given_descriptors(said)


texts = st.text(max_size=12) | st.integers(-5, 2000).map(str) | st.just(HERE)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"), texts)))
def test_whatever_it_says(said: dict[str, str]) -> None:
    """It is read, or refused with an error of ours."""
    try:
        found = given_descriptors(said)
    except ConfigurationError:
        return
    assert [fd for _, fd in found] == list(range(3, 3 + len(found)))
    assert all(name for name, _ in found)


# -- by descriptor


def test_the_kind_is_the_kernels_word(sockets: Any) -> None:
    """And that is all that building one asks for: the socket stays as it was."""
    for kind, expected in ((socket.SOCK_STREAM, Kind.STREAM), (socket.SOCK_DGRAM, Kind.DATAGRAM)):
        sock = sockets(kind=kind)
        os.set_inheritable(sock.fileno(), True)
        made = Inherited(fd=sock.fileno())
        assert made.kind is expected
        assert sock.getblocking()
        assert sock.get_inheritable()
        assert made == Inherited(fd=sock.fileno())
        assert hash(made) == hash(Inherited(fd=sock.fileno()))


def test_it_keeps_the_laws(sockets: Any) -> None:
    """Of all transports: that one may listen again, too."""
    kept = [sockets() for _ in range(30)]
    numbers = iter([sock.fileno() for sock in kept])
    check_transport(lambda: Inherited(fd=next(numbers)))


def test_it_keeps_the_laws_for_packets(sockets: Any) -> None:
    """The same."""
    kept = [sockets(kind=socket.SOCK_DGRAM) for _ in range(30)]
    numbers = iter([sock.fileno() for sock in kept])
    check_transport(lambda: Inherited(fd=next(numbers)))


def test_a_listener_is_a_copy(sockets: Any, loopback: Any, dial: Any) -> None:
    """Closing it turns nobody away: who waits is served by the next one."""
    sock = sockets()
    first = loopback.listen(Inherited(fd=sock.fileno()))
    waiting = dial(sock.getsockname())
    first.close()
    second = loopback.listen(Inherited(fd=sock.fileno()))
    connection = loopback.accept(second)
    assert connection.peer == waiting.getsockname()
    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    connection.finish(None)


def test_a_server_that_stops_leaves_the_queue_to_the_next(
    sockets: Any, loopback: Any, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts for a moment, and no longer, however many come; processes that were forked meanwhile neither."""
    sock = sockets()
    listener = loopback.listen(Inherited(fd=sock.fileno()))
    first, second = dial(sock.getsockname()), dial(sock.getsockname())
    listener.hold_off()
    connection = loopback.accept(listener)
    assert connection.peer == first.getsockname()
    connection.finish(None)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready, 1)
        try:
            listener.accept()
        except BlockingIOError:
            os._exit(0)
        os._exit(1)
    monkeypatch.setattr(inherited, "HOLD_OFF_S", 0.0)
    listener.hold_off()
    os.write(go, b"!")
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert os.waitpid(child, 0)[1] == 0
    os.close(ready)
    os.close(go)
    connection = loopback.accept(loopback.listen(Inherited(fd=sock.fileno())))
    assert connection.peer == second.getsockname()
    connection.finish(None)


def test_a_path_is_not_ours(sockets: Any, loopback: Any, dial: Any, tmp_path: Any) -> None:
    """Closing unlinks nothing."""
    sock = sockets(socket.AF_UNIX)
    made = Inherited(fd=sock.fileno())
    listener = loopback.listen(made)
    assert listener.address == str(tmp_path / "s")
    assert ("credentials" in made.attests) is hasattr(socket, "SO_PEERCRED")
    dial(listener.address)
    connection = loopback.accept(listener)
    assert connection.credentials.pid == os.getpid()
    connection.finish(None)
    listener.hold_off()
    listener.close()
    assert (tmp_path / "s").exists()


def test_an_abstract_name(sockets: Any, loopback: Any) -> None:
    """Is written with an @, as everywhere."""
    sock = sockets(socket.AF_UNIX, address=f"\0tricorn-inherited-{os.getpid()}")
    assert loopback.listen(Inherited(fd=sock.fileno())).address == f"@tricorn-inherited-{os.getpid()}"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_packets_are_answered_from_where_they_went(host: str, sockets: Any, loopback: Any, dial: Any) -> None:
    """Also where the socket takes every interface."""
    sock = sockets(kind=socket.SOCK_DGRAM, address=(host, 0))
    listener = loopback.listen(Inherited(fd=sock.fileno()))
    client = dial(("127.0.0.1", sock.getsockname()[1]), socket.SOCK_DGRAM)
    client.send(b"hello")
    packet = loopback.accept(listener)
    assert (packet.data, packet.peer) == (b"hello", client.getsockname())
    packet.open(Deadline(None))
    packet.reply(b"well")
    assert client.recv(10) == b"well"


def test_packets_over_a_unix_socket(sockets: Any, loopback: Any, dial: Any, tmp_path: Any) -> None:
    """Too."""
    sock = sockets(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener = loopback.listen(Inherited(fd=sock.fileno()))
    dial(str(tmp_path / "s"), socket.SOCK_DGRAM).send(b"hello")
    assert loopback.accept(listener).data == b"hello"


def test_what_is_no_listening_socket(sockets: Any, tmp_path: Any) -> None:
    """Is refused when the transport is built, with what it is."""
    with ExitStack() as opened:
        reader, writer = os.pipe()
        opened.callback(os.close, reader)
        opened.callback(os.close, writer)
        with pytest.raises(ConfigurationError, match=f"descriptor {reader} is no socket"):
            Inherited(fd=reader)
        one, other = (opened.enter_context(each) for each in socket.socketpair())
        with pytest.raises(ConfigurationError, match=r"does not listen; it is a connection \(Accept=yes"):
            Inherited(fd=one.fileno())
        packets = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        with pytest.raises(ConfigurationError, match="a socket of another sort"):
            Inherited(fd=packets.fileno())
        number = other.detach()
        os.close(number)
        with pytest.raises(ConfigurationError, match="Bad file descriptor"):
            Inherited(fd=number)


def test_a_descriptor_that_was_closed_meanwhile(sockets: Any) -> None:
    """Is a `ListenError`, which names it."""
    sock = sockets()
    number = sock.fileno()
    made = Inherited(fd=number)
    sock.close()
    with pytest.raises(ListenError, match=f"cannot listen on inherited fd={number}") as caught:
        made.listen()
    assert caught.value.errno is not None


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((), {}, "give either a name or a descriptor"),
        (("web",), {"fd": 3}, "give either a name or a descriptor"),
        ((), {"fd": 2}, "fd must be"),
        ((), {"fd": True}, "fd must be"),
        ((1,), {}, "name must be"),
        (("web",), {"only": "item"}, "only must be"),
        (("web",), {}, r"no socket of that name; it was given none \(LISTEN_FDS is not set\)"),
    ],
)
def test_what_cannot_work_is_refused(arguments: Any, options: Any, said: str) -> None:
    """When it is built."""
    with pytest.raises(ConfigurationError, match=said):
        Inherited(*arguments, **options)


def test_by_name(sockets: Any) -> None:
    """With a descriptor, for which the name is left out."""
    number = sockets().fileno()
    assert transport(f"inherited:?fd={number}") == Inherited(fd=number)
    with pytest.raises(ConfigurationError, match="no socket of that name"):
        transport("inherited:web")
    with pytest.raises(ConfigurationError, match="has a slash"):
        transport("inherited://web")


# -- from a service manager

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
