"""Reading packets together with what the kernel knows of them, by recvmsg(2).

First of all, which of our addresses a packet was sent to, and how a reply leaves from there: a socket bound to every
interface would reply from whatever address routing prefers, and the client would not know the answer for its own.
Further facts are asked for one by one (`Facts`).  Where nothing is asked for and the socket is bound to one address
there is no reader: `~tricorn.datagram.take_packet` is quicker.

Source: ip(7), IP_PKTINFO; RFC 3542, section 6, IPV6_PKTINFO; recv(2), MSG_TRUNC; socket(7), SO_TIMESTAMPNS and
SO_RXQ_OVFL; unix(7), SO_PASSCRED.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import frozen

from tricorn.ancillary import (
    DROPS,
    HOP_LIMIT,
    IP_PACKET_INFO,
    IPV6_HOP_LIMIT,
    IPV6_PACKET_INFO,
    TIMESTAMP_NS,
    without_descriptors,
)
from tricorn.checks import flag, refuse_option
from tricorn.datagram import Datagram, too_long

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["Facts", "PacketReader", "check_fact", "packet_reader"]

_IPV6_RECVPKTINFO: int | None = getattr(socket, "IPV6_RECVPKTINFO", None)
_IPV6_RECVHOPLIMIT: int | None = getattr(socket, "IPV6_RECVHOPLIMIT", None)
_IP_RECVTTL = 12  # linux/in.h

_IN_PKTINFO_SIZE = 12  # int ifindex, in_addr of ours, in_addr in the header
_IN6_PKTINFO_SIZE = 20  # in6_addr, unsigned ifindex
_TIMESPEC_SIZE = 16
_INT_SIZE = 4
_UCRED_SIZE = 12
_ANY_INTERFACE = bytes(4)
_NO_DROPS = (socket.SOL_SOCKET, DROPS or 0, bytes(4))  # the kernel leaves a count of 0 out

#: ``(host, address to reply from)`` of one control message; no address where routing is to choose.
_Arrival = tuple[tuple[str | int, ...], bytes | None]


def check_fact(owner: object, option: Attribute[Any], value: object) -> None:
    """attrs validator of what is asked of the kernel: True or False; elsewhere than on Linux, False."""
    flag(owner, option, value)
    if value and sys.platform != "linux":
        refuse_option(owner, option.name, value, "False: only Linux tells")


@frozen
class Facts:
    """What is to be known of each packet; each is one control message more."""

    interfaces: bool = False
    timestamps: bool = False
    dropped: bool = False
    hop_limits: bool = False
    credentials: bool = False

    def ask(self, sock: socket.socket) -> int:
        """Ask the kernel, and return the bytes of room that its messages need.  Raises `OSError`."""
        room = 0
        for level, option, size in self._messages(sock):
            sock.setsockopt(level, option, 1)
            room += socket.CMSG_SPACE(size)
        return room

    def _messages(self, sock: socket.socket) -> Iterator[tuple[int, int, int]]:
        """``(level, option to set, bytes of the message)`` of each."""
        own = socket.SOL_SOCKET
        ipv6 = sock.family == socket.AF_INET6
        if self.timestamps and TIMESTAMP_NS is not None:
            yield own, TIMESTAMP_NS, _TIMESPEC_SIZE
        if self.dropped and DROPS is not None:
            yield own, DROPS, _INT_SIZE
        if self.credentials:
            yield own, socket.SO_PASSCRED, _UCRED_SIZE
        if self.interfaces and ipv6 and _IPV6_RECVPKTINFO is not None:
            yield socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, _IN6_PKTINFO_SIZE
        elif self.interfaces and not ipv6 and IP_PACKET_INFO is not None:
            yield socket.IPPROTO_IP, IP_PACKET_INFO, _IN_PKTINFO_SIZE
        if self.hop_limits and ipv6 and _IPV6_RECVHOPLIMIT is not None and IPV6_HOP_LIMIT is not None:
            yield socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, _INT_SIZE
        elif self.hop_limits and not ipv6 and HOP_LIMIT is not None:
            yield socket.IPPROTO_IP, _IP_RECVTTL, _INT_SIZE


class _WayBack(NamedTuple):
    """How one address family tells to which of our addresses a packet was sent."""

    level: int
    kind: int
    read: Callable[[bytes, int], _Arrival]

    def show(self, packet: Datagram, port: int) -> None:
        """Put it into ``packet``, and the way back."""
        for level, kind, content in packet.ancillary:
            if level == self.level and kind == self.kind:
                packet.local, source = self.read(content, port)
                if source is not None:
                    packet.control = ((level, kind, source),)


@frozen
class PacketReader:
    """Takes packets from one bound, non-blocking socket.  Safe from many threads."""

    #: The address that the socket is bound to.
    bound: Any
    room: int
    max_packet_size: int
    deliver_truncated: bool
    #: The platform says how long a packet was that did not fit.
    tells_length: bool
    #: Set where the socket is bound to every interface.
    way_back: _WayBack | None
    counts_drops: bool
    #: A Unix socket, by which descriptors may come.
    closes_descriptors: bool = False

    def take(self, sock: socket.socket) -> Datagram:
        """recvmsg(2); raises as `~tricorn.contracts.Listener.accept` does."""
        packet = self._take_whole_length(sock) if self.tells_length else self._take(sock)
        if self.counts_drops and packet.dropped is None:
            packet.ancillary = (*packet.ancillary, _NO_DROPS)
        if self.way_back is not None:
            self.way_back.show(packet, self.bound[1])
        return packet

    def _take(self, sock: socket.socket) -> Datagram:
        data, messages, flags, peer = sock.recvmsg(self.max_packet_size, self.room)
        kept = without_descriptors(messages) if self.closes_descriptors else messages
        truncated = bool(flags & socket.MSG_TRUNC)
        if truncated and not self.deliver_truncated:
            raise too_long(self.max_packet_size, peer)
        return Datagram(data, peer, sock, self.bound, truncated, ancillary=kept)

    def _take_whole_length(self, sock: socket.socket) -> Datagram:
        """With MSG_TRUNC, recvmsg(2) returns the length that the packet had, which is no length of a buffer."""
        buffer = bytearray(self.max_packet_size)
        length, messages, _, peer = sock.recvmsg_into([buffer], self.room, socket.MSG_TRUNC)
        missing = max(0, length - self.max_packet_size)
        with memoryview(buffer) as view:
            data = bytes(view[:length])
        kept = without_descriptors(messages) if self.closes_descriptors else messages
        return Datagram(data, peer, sock, self.bound, missing > 0, ancillary=kept, missing=missing)


def packet_reader(
    sock: socket.socket, facts: Facts, *, max_packet_size: int, deliver_truncated: bool, bound: Any = None
) -> PacketReader | None:
    """Ask for control messages on ``sock``; ``None`` where none are needed, or the platform has none.

    ``bound``: its address, if not what getsockname(2) says.  Raises `OSError` as setsockopt(2) does.
    """
    if not hasattr(sock, "recvmsg"):
        return None
    bound = sock.getsockname() if bound is None else bound
    way_back = _way_back(bound)
    if way_back is not None:
        facts = Facts(True, facts.timestamps, facts.dropped, facts.hop_limits, facts.credentials)
    tells_length = deliver_truncated and sys.platform == "linux"
    room = facts.ask(sock)
    unix = sock.family == getattr(socket, "AF_UNIX", None)
    if not room and not tells_length:
        return None
    return PacketReader(bound, room, max_packet_size, deliver_truncated, tells_length, way_back, facts.dropped, unix)


def _way_back(bound: Any) -> _WayBack | None:
    host = bound[0]
    if host == "0.0.0.0" and IP_PACKET_INFO is not None:
        return _WayBack(socket.IPPROTO_IP, IP_PACKET_INFO, _read_ipv4)
    if host == "::" and IPV6_PACKET_INFO is not None and _IPV6_RECVPKTINFO is not None:
        return _WayBack(socket.IPPROTO_IPV6, IPV6_PACKET_INFO, _read_ipv6)
    return None


def _read_ipv4(content: bytes, port: int) -> _Arrival:
    """``ours`` differs from the header's address for a broadcast or a group, which cannot be replied from."""
    ours, in_header = content[4:8], content[8:12]
    return (socket.inet_ntop(socket.AF_INET, in_header), port), _ANY_INTERFACE + ours + _ANY_INTERFACE


def _read_ipv6(content: bytes, port: int) -> _Arrival:
    address, interface = content[:16], content[16:20]
    link_local = address[0] == 0xFE and address[1] & 0xC0 == 0x80  # fe80::/10: unique on one interface only
    scope = int.from_bytes(interface, sys.byteorder) if link_local else 0
    local = (socket.inet_ntop(socket.AF_INET6, address), port, 0, scope)
    if address[0] == 0xFF:  # a group
        return local, None
    return local, address + (interface if link_local else _ANY_INTERFACE)
