"""Connections over TCP."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from tricorn import inet
from tricorn.contracts import Kind
from tricorn.errors import ConfigurationError, ListenError
from tricorn.transports import TCP
from tricorn.wakeup import wait_readable

LINUX = sys.platform == "linux"


def has_ipv6():
    """Whether ``::1`` can be bound here."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


def resolve_to(monkeypatch, *addresses):
    """Make every name mean ``addresses``."""

    def getaddrinfo(host, port, **hints):
        return [(socket.AF_INET, hints["type"], 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_building_opens_nothing(open_descriptors):
    """A transport is a value: equal to its like, hashable, and without descriptors."""
    before = open_descriptors()
    assert TCP("127.0.0.1", 80) == TCP("127.0.0.1", 80)
    assert hash(TCP(port=80)) == hash(TCP(port=80))
    assert open_descriptors() == before
    assert TCP.kind is Kind.STREAM


def test_bytes_go_both_ways(loopback):
    """An accepted connection carries bytes both ways and knows both addresses."""
    listener = loopback.listen(TCP())
    with socket.create_connection(listener.address) as client:
        connection = loopback.accept(listener)
        client.sendall(b"ping")
        assert connection.recv() == b"ping"
        connection.send(b"pong")
        assert client.recv(10) == b"pong"
        assert connection.peer == client.getsockname()
        assert connection.local == client.getpeername() == listener.address
        connection.close()


def test_accept_never_blocks(loopback):
    """Where nothing is pending accept raises BlockingIOError."""
    listener = loopback.listen(TCP())
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_listening_socket_is_closed_on_exec_and_accepted_socket_blocks(loopback):
    """The listening socket is non-blocking and close-on-exec; an accepted one blocks and is close-on-exec."""
    listener = loopback.listen(TCP())
    assert not os.get_blocking(listener.fileno())
    assert not os.get_inheritable(listener.fileno())
    with socket.create_connection(listener.address):
        connection = loopback.accept(listener)
        assert os.get_blocking(connection.socket.fileno())
        assert connection.socket.gettimeout() is None
        assert not os.get_inheritable(connection.socket.fileno())
        connection.close()


@pytest.mark.parametrize("on", [True, False])
def test_accepted_sockets_have_the_options(loopback, on):
    """TCP_NODELAY and SO_KEEPALIVE are set on accepted sockets, or are not, as the transport says."""
    listener = loopback.listen(TCP(nodelay=on, keepalive=on))
    with socket.create_connection(listener.address):
        connection = loopback.accept(listener)
        assert bool(connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is on
        assert bool(connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is on
        connection.close()


@pytest.mark.skipif(not LINUX, reason="Linux inherits them")
def test_options_cost_no_call_for_each_connection(loopback):
    """On Linux the options are inherited from the listening socket, so nothing is left to set."""
    assert loopback.listen(TCP())._options == ()


def test_options_that_are_not_inherited_are_set_after_accept(loopback):
    """Where accepted sockets inherit nothing the listener sets the options, and a peer that is gone is no error."""
    from tricorn.transports.tcp import TCPListener

    (sock,) = inet.open_inet_sockets("tcp", "127.0.0.1", 0, kind=socket.SOCK_STREAM, backlog=5)
    listener = TCPListener(sock, ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, 99999, 1)))
    loopback.listeners.append(listener)
    with socket.create_connection(listener.address):
        connection = loopback.accept(listener)
        assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()


@needs_ipv6
def test_ipv6(loopback):
    """An IPv6 address works like an IPv4 one, with its four-part address."""
    listener = loopback.listen(TCP("::1"))
    with socket.create_connection(listener.address[:2]):
        connection = loopback.accept(listener)
        assert connection.peer[0] == "::1"
        connection.close()


@needs_ipv6
def test_empty_host_is_every_interface_of_both_families(loopback):
    """Host ``""`` gives a listener for each family, which share one port."""
    listeners = loopback.listen_all(TCP(""))
    assert {listener.address[0] for listener in listeners} == {"0.0.0.0", "::"}
    (port,) = {listener.address[1] for listener in listeners}
    for listener in listeners:
        loopback_host = "127.0.0.1" if listener.address[0] == "0.0.0.0" else "::1"
        with socket.create_connection((loopback_host, port)):
            loopback.accept(listener).close()


@needs_ipv6
def test_ipv6_wildcard_takes_ipv6_only(loopback):
    """``::`` leaves the IPv4 port free, whatever the system's default is."""
    listener = loopback.listen(TCP("::"))
    loopback.listen(TCP("0.0.0.0", listener.address[1]))


@pytest.mark.skipif(not LINUX, reason="127.0.0.2 is Linux's")
def test_name_with_several_addresses_gets_a_listener_for_each(loopback, monkeypatch):
    """Each address of a name is bound once, however often the resolver names it, and all have the same port."""
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    listeners = loopback.listen_all(TCP("several.test"))
    assert [listener.address[0] for listener in listeners] == ["127.0.0.1", "127.0.0.2"]
    assert len({listener.address[1] for listener in listeners}) == 1


@pytest.mark.skipif(not LINUX, reason="127.0.0.2 is Linux's")
def test_shared_port_that_is_taken_is_given_back_for_another(loopback, monkeypatch, open_descriptors):
    """When the port of the first address is in use on the second, all are bound again with another port."""
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    taken = []
    real = inet._open

    def clash_once(place, *rest):
        if place.address[0] == "127.0.0.2" and not taken:
            taken.append(place.address[1])
            raise OSError(errno.EADDRINUSE, "taken")
        return real(place, *rest)

    monkeypatch.setattr(inet, "_open", clash_once)
    before = open_descriptors()
    listeners = loopback.listen_all(TCP("several.test"))
    assert len({listener.address[1] for listener in listeners}) == 1
    assert open_descriptors() == before + 2


def test_shared_port_is_not_sought_for_ever(monkeypatch, open_descriptors):
    """After a bounded number of clashes the error comes out, with nothing left open."""
    attempts = []

    def clash(place, *rest):
        attempts.append(place)
        raise OSError(errno.EADDRINUSE, "taken")

    monkeypatch.setattr(inet, "_open", clash)
    before = open_descriptors()
    with pytest.raises(ListenError) as caught:
        TCP().listen()
    assert caught.value.errno == errno.EADDRINUSE
    assert len(attempts) == inet.SHARED_PORT_ATTEMPTS
    assert open_descriptors() == before


def test_address_of_another_machine_is_skipped_if_the_name_has_one_here(loopback, monkeypatch):
    """Of a name's addresses those are bound that this machine has."""
    resolve_to(monkeypatch, "192.0.2.1", "127.0.0.1")
    listener = loopback.listen(TCP("several.test"))
    assert listener.address[0] == "127.0.0.1"


def test_port_in_use_is_a_listen_error(loopback, open_descriptors):
    """A port in use raises ListenError with errno, address and a way out, and leaves no descriptor."""
    first = loopback.listen(TCP())
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{first.address[1]}.*in use") as caught:
            TCP(port=first.address[1]).listen()
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.address == ("127.0.0.1", first.address[1])
    assert open_descriptors() == before


def test_address_of_another_machine_is_a_listen_error(open_descriptors):
    """An address that no interface has raises ListenError with EADDRNOTAVAIL."""
    before = open_descriptors()
    with pytest.raises(ListenError, match=r"192\.0\.2\.1") as caught:
        TCP("192.0.2.1").listen()
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert open_descriptors() == before


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64, "a..b"])
def test_unresolvable_host_is_a_listen_error(host, monkeypatch):
    """A name without an address, or one that cannot be a name, raises ListenError that says so."""
    real = socket.getaddrinfo

    def offline(name, *args, **options):
        if name.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(ListenError, match="cannot be resolved") as caught:
        TCP(host).listen()
    assert caught.value.errno == socket.EAI_NONAME


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 65536}, "TCP(port=65536): port must be a whole number from 0 to 65535"),
        ({"port": -1}, "port=-1"),
        ({"port": "80"}, "port='80'"),
        ({"port": True}, "port=True"),
        ({"host": None}, "host=None"),
        ({"host": "a\0b"}, "host="),
        ({"backlog": 0}, "backlog=0"),
        ({"backlog": 2**31}, "backlog="),
        ({"nodelay": 1}, "nodelay=1"),
        ({"keepalive": "yes"}, "keepalive='yes'"),
        ({"reuse_port": None}, "reuse_port=None"),
    ],
)
def test_wrong_option_is_a_configuration_error(options, said):
    """A value that cannot work is refused when the transport is built, with option, value and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        TCP(**options)
    assert said in str(caught.value)
    assert "must be" in str(caught.value)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_reuse_port_lets_two_listeners_share_a_port(loopback):
    """With reuse_port a second listener binds the same port; without it, it does not."""
    first = loopback.listen(TCP(reuse_port=True))
    second = loopback.listen(TCP(port=first.address[1], reuse_port=True))
    assert second.address == first.address
    with pytest.raises(ListenError):
        TCP(port=first.address[1]).listen()


def test_reuse_port_is_refused_where_the_platform_has_none(monkeypatch):
    """Without SO_REUSEPORT the option is a ConfigurationError that says why."""
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ConfigurationError, match="no SO_REUSEPORT"):
        TCP(reuse_port=True)


def test_port_is_free_at_once_after_close(loopback):
    """A port with connections in TIME_WAIT can be listened on again at once."""
    listener = loopback.listen(TCP())
    with socket.create_connection(listener.address) as client:
        connection = loopback.accept(listener)
        connection.close()
        assert client.recv(1) == b""
    listener.close()
    assert listener.fileno() == -1
    loopback.listen(TCP(port=listener.address[1]))


def test_disown_leaves_the_port_to_the_other_process(loopback, in_child):
    """A forked child that disowns its copy ends nothing for the parent."""
    listener = loopback.listen(TCP())
    assert in_child(lambda: (listener.disown(), listener.fileno() == -1)[1])
    with socket.create_connection(listener.address):
        loopback.accept(listener).close()


def test_default_timeout_of_sockets_does_not_make_accept_block(loopback):
    """`socket.setdefaulttimeout` changes accepted sockets, as it does everywhere, and never the listening one."""
    socket.setdefaulttimeout(7)
    try:
        listener = loopback.listen(TCP())
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.create_connection(listener.address):
            connection = loopback.accept(listener)
            assert connection.socket.gettimeout() == 7
            connection.close()
    finally:
        socket.setdefaulttimeout(None)


def test_accepted_socket_blocks_where_it_inherits_that_it_does_not(loopback, monkeypatch):
    """Where accept(2) passes O_NONBLOCK on, the connection's socket is made blocking again."""
    monkeypatch.setattr("tricorn.connection._INHERITS_NONBLOCKING", True)
    listener = loopback.listen(TCP())
    with socket.create_connection(listener.address):
        connection = loopback.accept(listener)
        assert os.get_blocking(connection.socket.fileno())
        connection.close()


@pytest.mark.skipif(not LINUX, reason="elsewhere the door is not shut by the hop count")
@pytest.mark.parametrize(
    ("host", "level", "option"),
    [
        ("127.0.0.1", socket.IPPROTO_IP, socket.IP_TTL),
        pytest.param("::1", socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, marks=needs_ipv6),
    ],
)
def test_who_gets_in_after_the_door_was_shut_is_heard(host: str, level: int, option: int) -> None:
    """A handshake that was under way is completed; the connection must not inherit the listener's limit of hops."""
    (listener,) = TCP(host, 0).listen()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        client.settimeout(10)
        client.setsockopt(level, option, 255)  # what passes the door, in place of being quick
        try:
            listener.hold_off()
            client.connect(listener.address)
            client.setsockopt(level, option, 64)
            wait_readable(listener.fileno(), 10)
            connection = listener.accept()
            client.sendall(b"heard")
            try:
                assert wait_readable(connection.socket.fileno(), 10)
                assert connection.recv(10) == b"heard"
            finally:
                connection.finish(None)
        finally:
            listener.close()
