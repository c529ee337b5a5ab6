"""How many requests each peer has in flight, whatever the address is written as."""

from __future__ import annotations

import socket
import threading
from collections.abc import Hashable
from typing import Any

from tricorn.contracts import Kind, Request

__all__ = ["PeerCounts", "peer_key"]

_MAPPED = bytes(10) + b"\xff\xff"


def peer_key(request: Request) -> Hashable | None:
    """What the requests of one peer have in common; ``None`` where nothing is known by which to tell peers apart.

    The 4 bytes of an IPv4 address, also of one that is mapped to IPv6 (RFC 4291, section 2.5.5.2); the first 8 of an
    IPv6 address, which is what one network is given (RFC 6177), and all 16 of a link-local one, since those share their
    first 8; ``("uid", number)`` for Unix sockets, where the kernel tells.
    """
    peer = request.peer
    if isinstance(peer, tuple) and peer and isinstance(peer[0], str):
        return _inet_key(peer[0])
    if request.kind is Kind.ITEM:
        return None
    known: Any = request
    credentials = getattr(known, "credentials", None)
    return None if credentials is None else ("uid", credentials.uid)


def _inet_key(host: str) -> Hashable | None:
    try:
        if ":" not in host:
            return socket.inet_aton(host) if host.count(".") == 3 else host
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host  # of some other family
    if packed.startswith(_MAPPED):
        return packed[12:]
    return packed if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else packed[:8]


class PeerCounts:
    """Safe from any thread.  Who has nothing in flight takes no memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._counts: dict[Hashable, int] = {}
        #: By the request's identity, while it is in flight.
        self._keys: dict[int, Hashable] = {}

    def enter(self, request: Request) -> bool:
        """Count it in; False if its peer has as many as are allowed."""
        key = peer_key(request)
        if key is None:
            return True
        with self._lock:
            count = self._counts.get(key, 0)
            if count >= self._limit:
                return False
            self._counts[key] = count + 1
            self._keys[id(request)] = key
        return True

    def leave(self, request: Request) -> None:
        """Count it out, if it was counted in; twice is once."""
        with self._lock:
            key = self._keys.pop(id(request), None)
            if key is None:
                return
            count = self._counts[key] - 1
            if count:
                self._counts[key] = count
            else:
                del self._counts[key]

    def __len__(self) -> int:
        """How many peers have something in flight."""
        return len(self._counts)
