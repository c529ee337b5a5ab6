"""Reading a TLS ClientHello out of a connection's first bytes: who is asked for (SNI), and in which protocol (ALPN).

Sans-IO: bytes in, values out, nothing is consumed.  Sources: RFC 8446 sections 4.1.2, 4.2 and 5.1 (the same layout as
RFC 5246 section 7.4.1.2), RFC 6066 section 3 for the server's name, RFC 7301 section 3.1 for protocols.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from tricorn.errors import MalformedHello

__all__ = ["MAX_HELLO_BYTES", "ClientHello", "read_client_hello"]

#: The longest hello that is read, without the headers of its records.  A usual one has 0.3 to 2 KiB.
MAX_HELLO_BYTES = 32768

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
#: RFC 8446 section 5.1: a record of plain text holds no more.
_MAX_RECORD = 16384
_SERVER_NAME, _ALPN = 0, 16
_HOST_NAME = 0


@frozen
class ClientHello:
    """What a client asks for.  It is the peer's word: nothing in it has been verified."""

    #: The host name, in small letters; ``None`` where the client named none (an IP address is never named).
    server_name: str | None = None
    #: The protocols that the client offers, best first (``"h2"``, ``"http/1.1"``); each character is one byte.
    protocols: tuple[str, ...] = ()


def read_client_hello(data: bytes) -> ClientHello | None:
    """The hello that ``data`` begins with; ``None`` while it may still become one with more bytes.

    What comes behind the hello is not looked at.  Raises `~tricorn.errors.MalformedHello`, and nothing else, for bytes
    that begin no hello, contradict themselves, or announce more than `MAX_HELLO_BYTES`; for the most part at the first
    byte that is wrong.
    """
    message = _message(data)
    if message is None:
        return None
    server_name: str | None = None
    protocols: tuple[str, ...] = ()
    seen = set()
    for kind, body in _extensions(_Reader(message)):
        if kind in seen:
            raise MalformedHello(f"extension {kind} comes twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            server_name = _server_name(body)
        elif kind == _ALPN:
            protocols = _protocols(body)
    return ClientHello(server_name, protocols)


def _message(data: bytes) -> bytes | None:
    """The body of the handshake message, put together out of as many records as it takes; ``None``: more is needed."""
    message = bytearray()
    at = 0
    while True:
        length = _record_length(data[at : at + _RECORD_HEADER])
        start = at + _RECORD_HEADER
        message += data[start : start + (length or 0)]
        needed = _message_length(message)
        if needed is not None and len(message) >= needed:
            return bytes(message[_MESSAGE_HEADER:needed])
        if length is None or len(data) < start + length:
            return None
        at = start + length


def _record_length(header: bytes) -> int | None:
    """How many bytes the record holds; ``None`` while its header is incomplete."""
    if header and header[0] != _HANDSHAKE:
        raise MalformedHello(f"the first byte of a record is {header[0]}, and that of a TLS handshake is {_HANDSHAKE}")
    if len(header) > 1 and header[1] != 3:
        raise MalformedHello(f"the record's version is {header[1]}.x; those of TLS begin with 3")
    if len(header) < _RECORD_HEADER:
        return None
    length = int.from_bytes(header[3:5], "big")
    if not 0 < length <= _MAX_RECORD:
        raise MalformedHello(f"a record of {length} bytes; allowed: 1 to {_MAX_RECORD}")
    return length


def _message_length(message: bytearray) -> int | None:
    """How long the whole message is, with its header; ``None`` while that is not known."""
    if message and message[0] != _CLIENT_HELLO:
        raise MalformedHello(f"the handshake begins with message {message[0]}, and a ClientHello is {_CLIENT_HELLO}")
    if len(message) < _MESSAGE_HEADER:
        return None
    length = _MESSAGE_HEADER + int.from_bytes(message[1:4], "big")
    if length > MAX_HELLO_BYTES:
        raise MalformedHello(f"a ClientHello of {length} bytes; at most {MAX_HELLO_BYTES} are read")
    return length


class _Reader:
    """Takes a message apart from its beginning; never goes beyond its end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise MalformedHello(f"a field of {count} bytes, and {len(self._data) - self._at} are left")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """A field whose length stands before it, in ``size`` bytes: RFC 8446 section 3.4."""
        return self.take(self.number(size))

    def end(self, what: str) -> None:
        if self:
            raise MalformedHello(f"{len(self._data) - self._at} bytes too many behind {what}")


def _extensions(hello: _Reader) -> Iterator[tuple[int, _Reader]]:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello:
        return  # older clients may leave the extensions out
    extensions = _Reader(hello.vector(2))
    hello.end("the extensions")
    while extensions:
        kind = extensions.number(2)
        yield kind, _Reader(extensions.vector(2))


def _server_name(body: _Reader) -> str | None:
    names = _Reader(body.vector(2))
    body.end("the server names")
    found = None
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind != _HOST_NAME:
            continue
        if found is not None:
            raise MalformedHello("two host names")
        found = _host_name(name)
    return found


def _host_name(name: bytes) -> str:
    """ASCII without a control character or a blank: it comes to stand in logs, and in names of files."""
    if not name or not all(0x20 < byte < 0x7F for byte in name):
        raise MalformedHello(f"the server name {name[:64]!r} is no host name")
    return name.decode("ascii").lower()


def _protocols(body: _Reader) -> tuple[str, ...]:
    offered = _Reader(body.vector(2))
    body.end("the protocols")
    names = []
    while offered:
        names.append(offered.vector(1).decode("latin-1"))
    if not names or "" in names:
        raise MalformedHello("ALPN without a protocol, or with an empty one")
    return tuple(names)
