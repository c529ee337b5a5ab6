"""What the kernel knows of a packet reaches the handler where it was asked for, and costs nothing where not."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from contextlib import ExitStack

import pytest

from tricorn import Server
from tricorn.ancillary import without_descriptors
from tricorn.connection import Credentials
from tricorn.datagram import Datagram
from tricorn.errors import ConfigurationError, ListenError, PeerRefused
from tricorn.handlers import BaseRequestHandler, DatagramRequestHandler
from tricorn.handover import make_channel, receive_request, send_request
from tricorn.packet_info import Facts, PacketReader
from tricorn.strategies import Fork, ProcessPool, Sync, ThreadPool
from tricorn.transports import UDP, UnixDatagram

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")

EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
EVERYTHING = {"interfaces": True, "timestamps": True, "count_dropped": True, "hop_limits": True}


def has_ipv6():
    """Whether ``::1`` can be bound here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
HOSTS = ["127.0.0.1", "0.0.0.0", pytest.param("::1", marks=needs_ipv6), pytest.param("::", marks=needs_ipv6)]


@pytest.fixture
def dial():
    """Connects a client, which has a name of its own, to a datagram listener."""
    with ExitStack() as opened:

        def connect(address):
            if isinstance(address, str):
                client = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                client.bind("")  # autobind: unix(7)
                client.connect("\0" + address[1:] if address.startswith("@") else address)
            else:
                family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
                client = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                client.connect((EVERY_INTERFACE.get(address[0], address[0]), address[1]))
            client.settimeout(10)
            return client

        yield connect


def loopback_interface():
    """The number of the interface ``lo``."""
    return socket.if_nametoindex("lo")


# -- asked for


@pytest.mark.parametrize("host", HOSTS)
def test_all_that_can_be_asked_for(loopback, dial, host):
    """Interface, time, drops and hops of a packet, with its bytes and the way back as ever."""
    listener = loopback.listen(UDP(host, **EVERYTHING))
    client = dial(listener.address)
    before = time.time_ns()
    client.send(b"ping")
    packet = loopback.accept(listener)
    assert packet.data == b"ping"
    assert packet.interface == loopback_interface()
    assert before <= packet.received_at_ns <= time.time_ns()
    assert packet.dropped == 0
    assert 0 < packet.hop_limit <= 255
    assert (packet.full_length, packet.truncated) == (4, False)
    assert packet.local[:2] == client.getpeername()[:2]
    packet.reply(b"pong")
    assert client.recv(9) == b"pong"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("option", EVERYTHING)
def test_each_can_be_asked_for_alone(loopback, dial, host, option):
    """One option tells one fact; the interface comes also where every interface is taken, for the sake of the reply."""
    listener = loopback.listen(UDP(host, **{option: True}))
    dial(listener.address).send(b"ping")
    packet = loopback.accept(listener)
    told = {
        "interfaces": packet.interface,
        "timestamps": packet.received_at_ns,
        "count_dropped": packet.dropped,
        "hop_limits": packet.hop_limit,
    }
    wanted = {option, "interfaces"} if host in ("0.0.0.0", "::") else {option}
    assert {name for name, fact in told.items() if fact is not None} == wanted


def test_the_hop_limit_is_the_packets_own(loopback, dial):
    """Not ours, and not a default."""
    listener = loopback.listen(UDP(hop_limits=True))
    client = dial(listener.address)
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
    client.send(b"ping")
    assert loopback.accept(listener).hop_limit == 7


def test_the_time_is_when_the_kernel_had_it_and_not_when_we_did(loopback, dial):
    """Packets that waited have the times at which they came, in their order."""
    listener = loopback.listen(UDP(timestamps=True))
    client = dial(listener.address)
    client.send(b"first")
    between = time.time_ns()
    client.send(b"second")
    after = time.time_ns()
    first, second = loopback.accept(listener), loopback.accept(listener)
    assert first.received_at_ns <= between <= second.received_at_ns <= after


def test_dropped_packets_are_counted(loopback, dial):
    """What did not fit into the kernel's buffer shows in the next packet that did."""
    listener = loopback.listen(UDP(count_dropped=True, receive_buffer=2048))
    client = dial(listener.address)
    for _ in range(50):
        client.send(bytes(500))
    taken = 0
    with pytest.raises(BlockingIOError):
        while True:
            assert listener.accept().dropped == 0
            taken += 1
    client.send(b"next")
    assert loopback.accept(listener).dropped == 50 - taken > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_length_that_a_truncated_packet_had(loopback, dial, host):
    """The beginning is delivered, and how long the whole was."""
    listener = loopback.listen(UDP(host, max_packet_size=8, deliver_truncated=True))
    client = dial(listener.address)
    for length in (0, 7, 8, 9, 20_000):
        client.send(b"x" * length)
        packet = loopback.accept(listener)
        assert packet.data == b"x" * min(length, 8)
        assert packet.full_length == length
        assert packet.missing == max(0, length - 8)
        assert packet.truncated == (length > 8)


def test_the_length_of_a_truncated_unix_packet(loopback, dial, tmp_path):
    """The same on a Unix socket."""
    listener = loopback.listen(UnixDatagram(tmp_path / "s", max_packet_size=8, deliver_truncated=True))
    dial(listener.address).send(b"123456789")
    packet = loopback.accept(listener)
    assert (packet.data, packet.full_length, packet.local) == (b"12345678", 9, listener.address)


def test_a_length_that_nobody_counted_is_none():
    """Where the platform only says that something is missing."""
    assert Datagram(b"x", None, None, None, True).full_length is None
    assert Datagram(b"x", None, None).full_length == 1


def test_who_sent_a_unix_packet_and_when(loopback, dial, tmp_path, in_child):
    """Credentials are the sender's, another process's too; the time is the kernel's."""
    listener = loopback.listen(UnixDatagram(tmp_path / "s", credentials=True, timestamps=True))
    before = time.time_ns()
    dial(listener.address).send(b"ours")
    packet = loopback.accept(listener)
    assert packet.credentials == Credentials(os.getpid(), os.getuid(), os.getgid())
    assert before <= packet.received_at_ns <= time.time_ns()

    def send():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as child:
            return child.sendto(str(os.getpid()).encode(), listener.address)

    assert in_child(send)
    packet = loopback.accept(listener)
    assert packet.credentials.pid == int(packet.data) != os.getpid()


def test_a_unix_packet_from_before_we_asked_has_no_credentials():
    """The kernel then says pid 0 and the overflow user, which is nobody's word."""
    unknown = struct.pack("iII", 0, 65534, 65534)
    hidden = struct.pack("iII", 0, 1000, 1000)

    def credentials(content):
        return Datagram(b"", None, None, ancillary=[(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, content)]).credentials

    assert credentials(unknown) is None
    assert credentials(hidden) == Credentials(0, 1000, 1000)


# -- not asked for


@pytest.mark.parametrize("transport", [UDP, UnixDatagram])
def test_not_asked_for_is_none_and_takes_the_short_way(loopback, dial, tmp_path, transport):
    """The packet is read by recvfrom and knows nothing more; nothing is set on the socket."""
    listener = loopback.listen(transport() if transport is UDP else transport(tmp_path / "s"))
    assert getattr(listener, "_info", None) is getattr(listener, "_reader", None) is None
    dial(listener.address).send(b"ping")
    packet = loopback.accept(listener)
    assert (packet.interface, packet.received_at_ns, packet.dropped) == (None, None, None)
    assert (packet.hop_limit, packet.credentials, packet.full_length) == (None, None, 4)
    assert packet.ancillary == ()


# -- the whole way


def facts_of(packet):
    """As text, so that it can be replied."""
    known = packet.interface, packet.received_at_ns is not None, packet.hop_limit, packet.full_length
    return repr(known).encode()


def reply_with_facts(packet):
    """A function sees the packet."""
    packet.reply(facts_of(packet))


class FactsByClass(BaseRequestHandler):
    """A class sees it behind the socket that it is given."""

    def handle(self):
        """Reply with the facts."""
        data, sock = self.request
        assert data == b"12345678"
        sock.sendto(facts_of(sock.datagram), self.client_address)


class FactsByFiles(DatagramRequestHandler):
    """The same with files."""

    def handle(self):
        """Reply with the facts."""
        self.wfile.write(facts_of(self.socket.datagram))


@pytest.mark.parametrize("handler", [reply_with_facts, FactsByClass, FactsByFiles])
@pytest.mark.parametrize(
    "dispatcher",
    [Sync, lambda: ThreadPool(2), lambda: Fork(2), lambda: ProcessPool(2)],
    ids=["sync", "thread-pool", "fork", "process-pool"],
)
def test_under_every_dispatcher(dial, dispatcher, handler):
    """The facts come along to wherever the handler runs, and whatever shape it has."""
    transport = "udp://127.0.0.1:0?interfaces=true&timestamps=yes&hop_limits=on&max_packet_size=8&deliver_truncated=1"
    with Server(transport, dispatcher(), handler) as server:
        server.start()
        client = dial(server.address)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
        client.send(b"123456789")
        assert client.recv(99) == repr((loopback_interface(), True, 7, 9)).encode()


@pytest.mark.parametrize("transport", [UDP, UnixDatagram])
def test_they_go_with_a_packet_to_another_process(loopback, dial, tmp_path, transport):
    """A packet that is handed over has all that it had."""
    limits = {"max_packet_size": 8, "deliver_truncated": True}
    asked = UDP(**EVERYTHING, **limits) if transport is UDP else None
    listener = loopback.listen(asked or UnixDatagram(tmp_path / "s", timestamps=True, credentials=True, **limits))
    dial(listener.address).send(b"123456789")
    packet = loopback.accept(listener)
    here, there = make_channel()
    with here, there:
        send_request(here, 1, packet)
        _, arrived = receive_request(there)
    for name in ("data", "peer", "local", "truncated", "full_length", "interface", "received_at_ns", "dropped"):
        assert getattr(arrived, name) == getattr(packet, name), name
    assert (arrived.hop_limit, arrived.credentials) == (packet.hop_limit, packet.credentials)
    assert (arrived.hop_limit is None) == (transport is UnixDatagram)
    assert (arrived.credentials is None) == (transport is UDP)


# -- bad input


@pytest.mark.parametrize("option", EVERYTHING)
def test_too_long_a_packet_is_refused_whatever_was_asked_for(loopback, dial, option):
    """Facts do not change the limit, and the next packet is served."""
    listener = loopback.listen(UDP(max_packet_size=8, **{option: True}))
    client = dial(listener.address)
    client.send(b"123456789")
    client.send(b"12345678")
    with pytest.raises(PeerRefused, match="longer than max_packet_size"):
        loopback.accept(listener)
    assert loopback.accept(listener).data == b"12345678"


def test_descriptors_that_a_client_passes_are_closed(loopback, dial, tmp_path, open_descriptors):
    """Whoever may send a packet may send descriptors with it; none stays, and the packet is served."""
    listener = loopback.listen(UnixDatagram(tmp_path / "s", timestamps=True))
    client = dial(listener.address)
    reader = PacketReader(listener.address, 400, 100, False, False, None, False, True)
    before = open_descriptors()
    for _ in range(3):
        socket.send_fds(client, [b"take this"], [client.fileno()] * 5)
        packet = reader.take(listener._socket)
        assert packet.data == b"take this"
        assert packet.received_at_ns is not None
        assert all(kind != socket.SCM_RIGHTS for _, kind, _ in packet.ancillary)
        socket.send_fds(client, [b"take this"], [client.fileno()] * 5)
        assert loopback.accept(listener).data == b"take this"
    assert open_descriptors() == before


def test_messages_without_descriptors_are_left_as_they_are():
    """Nothing is copied where nothing has to go."""
    messages = [(socket.SOL_SOCKET, 35, b"")]
    assert without_descriptors(messages) is messages


@pytest.mark.parametrize("option", EVERYTHING)
def test_a_wrong_option_is_a_configuration_error(option):
    """Only True and False, by name too."""
    with pytest.raises(ConfigurationError, match=f"{option}=1.*True or False"):
        UDP(**{option: 1})
    with pytest.raises(ConfigurationError, match=option):
        Server(f"udp://127.0.0.1:0?{option}=perhaps", Sync(), print)


@pytest.mark.parametrize("option", ["timestamps", "credentials"])
def test_elsewhere_than_on_linux_nothing_can_be_asked_for(monkeypatch, option):
    """The option is refused when the transport is built."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigurationError, match="only Linux tells"):
        UnixDatagram("s", **{option: True})


@pytest.mark.parametrize("transport", [UDP, UnixDatagram])
def test_a_kernel_that_refuses_to_tell_is_a_listen_error(monkeypatch, tmp_path, open_descriptors, transport):
    """Nothing is left open, and no file."""

    def refuse(self, sock):
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(Facts, "ask", refuse)
    before = open_descriptors()
    with pytest.raises(ListenError, match="Protocol not available"):
        (transport("") if transport is UDP else transport(tmp_path / "s")).listen()
    assert open_descriptors() == before
    assert not os.listdir(tmp_path)
