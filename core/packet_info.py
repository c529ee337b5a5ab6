"""Which of our addresses a packet was sent to, and how a reply leaves from there.

A socket bound to every interface would reply from whatever address routing prefers, and the client would not know the
answer for its own.  Source: ip(7), IP_PKTINFO; RFC 3542, section 6, IPV6_PKTINFO.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import NamedTuple

from tricorn.datagram import Datagram

__all__ = ["PacketInfo", "packet_info_for"]

#: Python names it from 3.14 on; the number is Linux's own, in linux/in.h.
_IP_PKTINFO: int | None = getattr(socket, "IP_PKTINFO", 8 if sys.platform == "linux" else None)
_IPV6_PKTINFO: int | None = getattr(socket, "IPV6_PKTINFO", None)
_IPV6_RECVPKTINFO: int | None = getattr(socket, "IPV6_RECVPKTINFO", None)

_IN_PKTINFO_SIZE = 12  # int ifindex, in_addr of ours, in_addr in the header
_IN6_PKTINFO_SIZE = 20  # in6_addr, unsigned ifindex
_ANY_INTERFACE = bytes(4)

#: ``(host, address to reply from)`` of one control message; no address where routing is to choose.
_Arrival = tuple[tuple[str | int, ...], bytes | None]


class PacketInfo(NamedTuple):
    """How one address family tells, in a control message of cmsg(3), where a packet arrived."""

    level: int
    option: int
    room: int
    read: Callable[[bytes, int], _Arrival]

    def take(self, sock: socket.socket, bound: tuple[str | int, ...], max_packet_size: int) -> Datagram:
        """recvmsg(2) on a non-blocking socket; ``Datagram.truncated`` by MSG_TRUNC."""
        data, control, flags, peer = sock.recvmsg(max_packet_size, self.room)
        packet = Datagram(data, peer, sock, bound, bool(flags & socket.MSG_TRUNC))
        for level, option, content in control:
            if level == self.level and option == self.option:
                packet.local, source = self.read(content, int(bound[1]))
                if source is not None:
                    packet.control = ((level, option, source),)
        return packet


def packet_info_for(sock: socket.socket) -> PacketInfo | None:
    """Ask for the control messages on ``sock``; ``None`` where it is bound to one address, or the platform has none."""
    bound: str = sock.getsockname()[0]
    if not hasattr(sock, "recvmsg"):
        return None
    if bound == "0.0.0.0" and _IP_PKTINFO is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        return PacketInfo(socket.IPPROTO_IP, _IP_PKTINFO, socket.CMSG_SPACE(_IN_PKTINFO_SIZE), _read_ipv4)
    if bound == "::" and _IPV6_PKTINFO is not None and _IPV6_RECVPKTINFO is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        return PacketInfo(socket.IPPROTO_IPV6, _IPV6_PKTINFO, socket.CMSG_SPACE(_IN6_PKTINFO_SIZE), _read_ipv6)
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
