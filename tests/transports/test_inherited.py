"""Sockets that were given to this process."""

from __future__ import annotations

import os
import socket
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
