"""What the kernel says about a packet beside its bytes: control messages of cmsg(3), as recvmsg(2) gives them.

Source: ip(7) and ipv6(7) for the interface and the hop limit, RFC 3542, sections 6.1 and 6.3; socket(7) for the time
and the count of drops; unix(7) for the sender.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import TypeAlias

__all__ = [
    "IPV6_PACKET_INFO",
    "IP_PACKET_INFO",
    "Message",
    "credentials_in",
    "drops_in",
    "hop_limit_in",
    "interface_in",
    "received_at_in",
    "without_descriptors",
]

#: ``(level, type, content)``.
Message: TypeAlias = tuple[int, int, bytes]

_LINUX = sys.platform == "linux"


def _option(name: str, number: int) -> int | None:
    """A constant of `socket`; where Python has no name for it, Linux's number; ``None`` where there is none."""
    value: int | None = getattr(socket, name, number if _LINUX else None)
    return value


#: Python names some of these from 3.14 on; the numbers are Linux's own, in linux/in.h and asm-generic/socket.h.
IP_PACKET_INFO = _option("IP_PKTINFO", 8)
IPV6_PACKET_INFO: int | None = getattr(socket, "IPV6_PKTINFO", None)
TIMESTAMP_NS = _option("SO_TIMESTAMPNS", 35)
DROPS = _option("SO_RXQ_OVFL", 40)
HOP_LIMIT = _option("IP_TTL", 2)
IPV6_HOP_LIMIT: int | None = getattr(socket, "IPV6_HOPLIMIT", None)
CREDENTIALS: int | None = getattr(socket, "SCM_CREDENTIALS", None)

_TIMESPEC = struct.Struct("@ll")
_UCRED = struct.Struct("@iII")
#: ``(pid, uid)`` where the kernel knows nothing: user_namespaces(7), overflowuid.
_NOBODY = (0, 65534)


def _content(messages: Sequence[Message], level: int, kind: int | None) -> bytes | None:
    for found_level, found_kind, content in messages:
        if found_kind == kind and found_level == level:
            return content
    return None


def _whole(content: bytes) -> int:
    return int.from_bytes(content, sys.byteorder)


def interface_in(messages: Sequence[Message]) -> int | None:
    """The number of the interface that the packet came in by."""
    content = _content(messages, socket.IPPROTO_IP, IP_PACKET_INFO)
    if content is not None:
        return _whole(content[:4])
    content = _content(messages, socket.IPPROTO_IPV6, IPV6_PACKET_INFO)
    return None if content is None else _whole(content[16:20])


def received_at_in(messages: Sequence[Message]) -> int | None:
    """When the kernel had the packet, in nanoseconds since the epoch."""
    content = _content(messages, socket.SOL_SOCKET, TIMESTAMP_NS)
    if content is None:
        return None
    seconds, nanoseconds = _TIMESPEC.unpack(content)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def drops_in(messages: Sequence[Message]) -> int | None:
    """How many packets the kernel had dropped on the socket."""
    content = _content(messages, socket.SOL_SOCKET, DROPS)
    return None if content is None else _whole(content)


def hop_limit_in(messages: Sequence[Message]) -> int | None:
    """How many more hops the packet could have gone."""
    content = _content(messages, socket.IPPROTO_IP, HOP_LIMIT)
    if content is None:
        content = _content(messages, socket.IPPROTO_IPV6, IPV6_HOP_LIMIT)
    return None if content is None else _whole(content)


def credentials_in(messages: Sequence[Message]) -> tuple[int, int, int] | None:
    """Process, user and group of the sender; none for a packet that was sent before they were asked for."""
    content = _content(messages, socket.SOL_SOCKET, CREDENTIALS)
    if content is None:
        return None
    pid, uid, gid = _UCRED.unpack(content)
    return None if (pid, uid) == _NOBODY else (pid, uid, gid)


def without_descriptors(messages: Sequence[Message]) -> Sequence[Message]:
    """The same without descriptors, which are closed: any sender on a Unix socket may pass some with a packet."""
    if all(kind != _RIGHTS or level != socket.SOL_SOCKET for level, kind, _ in messages):
        return messages
    kept = []
    for level, kind, content in messages:
        if kind == _RIGHTS and level == socket.SOL_SOCKET:
            for (descriptor,) in struct.iter_unpack("@i", content[: len(content) & ~3]):
                os.close(descriptor)
        else:
            kept.append((level, kind, content))
    return kept


_RIGHTS: int | None = getattr(socket, "SCM_RIGHTS", None)
