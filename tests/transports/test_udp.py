"""Packets over UDP."""

from __future__ import annotations

import errno
import socket
import struct
import sys

import pytest

from tricorn.contracts import Kind
from tricorn.errors import ConfigurationError, ListenError, PeerRefused
from tricorn.transports import UDP

LINUX = sys.platform == "linux"


@pytest.fixture
def client():
    """An IPv4 client."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.bind(("127.0.0.1", 0))
        yield sock


class Scripted:
    """A socket whose recvfrom does what the script says, one entry after the other."""

    def __init__(self, *script):
        self.script = list(script)

    def recvfrom(self, size):
        """The next entry, raised if it is an exception."""
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def close(self):
        """Nothing."""


def scripted(loopback, *script):
    """A listener that reads ``script``."""
    listener = loopback.listen(UDP())
    listener._socket.close()
    listener._socket = Scripted(*script)
    return listener


def test_packet_and_reply(loopback, client):
    """A packet comes with both addresses, and its reply reaches the sender."""
    listener = loopback.listen(UDP())
    assert UDP.kind is Kind.DATAGRAM
    client.sendto(b"ping", listener.address)
    packet = loopback.accept(listener)
    assert (packet.data, packet.peer, packet.local) == (b"ping", client.getsockname(), listener.address)
    assert not packet.truncated
    assert packet.reply(b"pong") == 4
    assert client.recvfrom(10) == (b"pong", listener.address)


def test_accept_never_blocks(loopback):
    """Where nothing is pending accept raises BlockingIOError, on one address and on all."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(BlockingIOError):
            loopback.listen(UDP(host)).accept()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_empty_packet_is_delivered(loopback, client, host):
    """A packet without bytes is a request like any other."""
    listener = loopback.listen(UDP(host))
    client.sendto(b"", ("127.0.0.1", listener.address[1]))
    packet = loopback.accept(listener)
    assert packet.data == b""
    assert not packet.truncated
    assert packet.reply(b"") == 0
    assert client.recv(10) == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_longest_packet_that_ip_can_carry_is_whole(loopback, client, host):
    """The default limit takes 65,507 bytes, the most that UDP over IPv4 can have."""
    listener = loopback.listen(UDP(host))
    data = bytes(range(256)) * 255 + bytes(227)
    client.sendto(data, ("127.0.0.1", listener.address[1]))
    packet = loopback.accept(listener)
    assert packet.data == data
    assert not packet.truncated


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_packet_above_the_limit_is_refused(loopback, client, host):
    """A packet longer than max_packet_size is taken off the queue and refused with its sender; the next is served."""
    listener = loopback.listen(UDP(host, max_packet_size=8))
    address = ("127.0.0.1", listener.address[1])
    client.sendto(b"123456789", address)
    client.sendto(b"12345678", address)
    with pytest.raises(PeerRefused, match=r"longer than max_packet_size \(8 bytes\)") as caught:
        loopback.accept(listener)
    assert caught.value.peer == client.getsockname()
    packet = loopback.accept(listener)
    assert packet.data == b"12345678"
    assert not packet.truncated


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_packet_above_the_limit_can_be_delivered_truncated(loopback, client, host):
    """With deliver_truncated its beginning is delivered, and marked."""
    listener = loopback.listen(UDP(host, max_packet_size=8, deliver_truncated=True))
    client.sendto(b"123456789", ("127.0.0.1", listener.address[1]))
    packet = loopback.accept(listener)
    assert packet.data == b"12345678"
    assert packet.truncated
    packet.reply(b"ok")
    assert client.recv(10) == b"ok"


@pytest.mark.skipif(not LINUX, reason="127.0.0.2 is Linux's")
def test_reply_leaves_from_the_address_that_the_client_used(loopback, client):
    """On the IPv4 wildcard the packet knows its local address, and the reply comes from there."""
    listener = loopback.listen(UDP("0.0.0.0"))
    used = ("127.0.0.2", listener.address[1])
    client.sendto(b"ping", used)
    packet = loopback.accept(listener)
    assert packet.local == used
    packet.reply(b"pong")
    assert client.recvfrom(10) == (b"pong", used)


def test_reply_leaves_from_the_address_that_the_ipv6_client_used(loopback):
    """On the IPv6 wildcard likewise."""
    try:
        listener = loopback.listen(UDP("::"))
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        client.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with client:
        client.settimeout(10)
        client.sendto(b"ping", ("::1", listener.address[1]))
        packet = loopback.accept(listener)
        assert packet.local == ("::1", listener.address[1], 0, 0)
        packet.reply(b"pong")
        data, peer = client.recvfrom(10)
        assert (data, peer[:2]) == (b"pong", ("::1", listener.address[1]))


def test_one_address_needs_no_control_messages(loopback):
    """A listener on one address reads by recvfrom, and replies by sendto."""
    assert loopback.listen(UDP("127.0.0.1"))._info is None
    assert loopback.listen(UDP("0.0.0.0"))._info is not None


def in6_pktinfo(address, interface):
    """The content of an IPV6_PKTINFO control message."""
    return socket.inet_pton(socket.AF_INET6, address) + struct.pack("=I", interface)


def test_link_local_address_keeps_its_interface():
    """A link-local address means something on its interface only: both are in the local address and in the reply."""
    from tricorn.packet_info import _read_ipv6

    content = in6_pktinfo("fe80::1", 3)
    assert _read_ipv6(content, 9) == (("fe80::1", 9, 0, 3), content)


def test_reply_to_a_packet_for_a_group_leaves_from_an_address_of_ours():
    """Nothing can leave from a group's address: routing chooses, or the interface's own address is used."""
    from tricorn.packet_info import _read_ipv4, _read_ipv6

    assert _read_ipv6(in6_pktinfo("ff02::1", 3), 9) == (("ff02::1", 9, 0, 0), None)
    content = struct.pack("=i", 3) + socket.inet_aton("192.0.2.7") + socket.inet_aton("224.0.0.1")
    local, source = _read_ipv4(content, 9)
    assert local == ("224.0.0.1", 9)
    assert source == bytes(4) + socket.inet_aton("192.0.2.7") + bytes(4)


def test_global_ipv6_address_leaves_the_interface_to_routing():
    """The interface that a packet came by does not bind its reply."""
    from tricorn.packet_info import _read_ipv6

    assert _read_ipv6(in6_pktinfo("2001:db8::1", 3), 9)[1] == in6_pktinfo("2001:db8::1", 0)


def test_source_port_0_never_reaches_a_handler(loopback):
    """A packet from port 0 is refused: nobody can reply to it."""
    listener = scripted(loopback, (b"trap", ("127.0.0.1", 0)))
    with pytest.raises(PeerRefused, match="port 0") as caught:
        listener.accept()
    assert caught.value.peer == ("127.0.0.1", 0)


def test_real_packet_from_port_0_is_refused(loopback):
    """The same with a packet on the wire, where raw sockets are allowed."""
    listener = loopback.listen(UDP())
    header = struct.pack("!HHHH", 0, listener.address[1], 8 + 4, 0)
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("raw sockets need a privilege")
    with raw:
        raw.sendto(header + b"trap", ("127.0.0.1", 0))
    with pytest.raises(PeerRefused, match="port 0"):
        loopback.accept(listener)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH])
def test_error_of_an_earlier_reply_is_not_the_next_clients(loopback, number):
    """What ICMP says about an earlier reply is skipped, and the packet behind it delivered."""
    listener = scripted(loopback, OSError(number, "icmp"), OSError(number, "icmp"), (b"next", ("127.0.0.1", 9)))
    assert listener.accept().data == b"next"


def test_endless_errors_of_earlier_replies_do_not_hold_the_thread(loopback):
    """After a bounded number of them accept says that nothing is pending."""
    listener = scripted(loopback, *[OSError(errno.ECONNREFUSED, "icmp")] * 1000)
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert listener._socket.script


def test_other_errors_come_out(loopback):
    """An error that is not an earlier reply's is the intake's to sort."""
    listener = scripted(loopback, OSError(errno.ENOMEM, "no memory"))
    with pytest.raises(OSError, match="no memory"):
        listener.accept()


def test_reply_to_a_dead_port_disturbs_nobody(loopback, client):
    """After replies to a client that is gone the next client is served as if nothing had been."""
    listener = loopback.listen(UDP())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.sendto(b"bye", listener.address)
    packet = loopback.accept(listener)
    for _ in range(3):
        packet.reply(b"anybody?")
    client.sendto(b"ping", listener.address)
    assert loopback.accept(listener).data == b"ping"


def test_reply_above_what_udp_can_carry_is_an_os_error(loopback, client):
    """EMSGSIZE comes out of reply, and is noted as the packet's fault."""
    listener = loopback.listen(UDP())
    client.sendto(b"ping", listener.address)
    packet = loopback.accept(listener)
    with pytest.raises(OSError, match=r".") as caught:
        packet.reply(bytes(70000))
    assert caught.value.errno == errno.EMSGSIZE
    assert packet.fault is caught.value


def test_receive_buffer_is_set(loopback):
    """receive_buffer is SO_RCVBUF, which Linux doubles for its own bookkeeping."""
    listener = loopback.listen(UDP(receive_buffer=16384))
    assert listener._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) in (16384, 32768)


def test_port_in_use_is_a_listen_error(loopback, open_descriptors):
    """Two servers cannot share a port unawares, and the failed bind leaves no descriptor."""
    first = loopback.listen(UDP())
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(ListenError, match="udp") as caught:
            UDP(port=first.address[1]).listen()
    assert caught.value.errno == errno.EADDRINUSE
    assert open_descriptors() == before


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_reuse_port_lets_two_listeners_share_a_port(loopback):
    """With reuse_port a second listener binds the same port."""
    first = loopback.listen(UDP(reuse_port=True))
    assert loopback.listen(UDP(port=first.address[1], reuse_port=True)).address == first.address


def test_empty_host_is_both_families_on_one_port(loopback):
    """Host ``""`` binds every interface; all listeners share the port."""
    listeners = loopback.listen_all(UDP(""))
    assert len({listener.address[1] for listener in listeners}) == 1
    assert "0.0.0.0" in {listener.address[0] for listener in listeners}


def test_address_of_another_machine_is_a_listen_error():
    """An address that no interface has raises ListenError with EADDRNOTAVAIL."""
    with pytest.raises(ListenError, match=r"192\.0\.2\.1") as caught:
        UDP("192.0.2.1").listen()
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    "options",
    [
        {"port": 65536},
        {"host": 1},
        {"max_packet_size": 0},
        {"max_packet_size": 65536},
        {"receive_buffer": 0},
        {"deliver_truncated": 1},
        {"reuse_port": 1},
    ],
)
def test_wrong_option_is_a_configuration_error(options):
    """A value that cannot work is refused when the transport is built, with option and value."""
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"{name}={value!r}.*must be"):
        UDP(**options)


def test_reuse_port_is_refused_where_the_platform_has_none(monkeypatch):
    """Without SO_REUSEPORT the option is a ConfigurationError that says why."""
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ConfigurationError, match="no SO_REUSEPORT"):
        UDP(reuse_port=True)
