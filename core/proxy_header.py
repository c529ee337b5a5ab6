"""The PROXY protocol's header: what a proxy says of its client before it passes on the first byte of it.

Sans-IO: bytes in, values out.  Source: "The PROXY protocol", versions 1 and 2, that comes with HAProxy
(proxy-protocol.txt), sections 2.1 for the text form, 2.2 for the binary form, 2.2.1 to 2.2.8 for what follows the
addresses there; RFC 3720 appendix B.4 for the CRC.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from attrs import field, frozen

from tricorn.errors import MalformedHeader

__all__ = ["MAX_V1_BYTES", "MAX_V2_BYTES", "HeaderReader", "ProxyHeader", "begins_header", "crc32c"]

#: The longest header in text, with its end of line: section 2.1.
MAX_V1_BYTES = 107
#: The longest header in binary that is read: 16 bytes, two Unix paths, and 4 KiB of what the proxy says besides.
#: The format could announce 65,551.
MAX_V2_BYTES = 16 + 216 + 4096

_TEXT, _SIGNATURE = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = 16
#: Bytes to look at while the length is not known; most headers in binary have no more.
_FIRST_LOOK = 232
_ALPN, _AUTHORITY, _CRC, _UNIQUE_ID = 1, 2, 3, 5
#: What may come once: with two of a kind nobody could tell which one is meant.
_ONCE = {_ALPN: "ALPN", _AUTHORITY: "authority", _CRC: "CRC32c", _UNIQUE_ID: "unique id"}
_MAX_UNIQUE_ID = 128
_MAX_HOST = 255


@frozen
class ProxyHeader:
    """What one proxy said of one connection.  Nothing in it is verified: it is worth what the proxy is worth."""

    #: 1 or 2.
    version: int
    #: The client's address, as accept(2) would give it; ``None`` where the proxy names none (it speaks for itself, as
    #: in a health check, or does not know).
    source: object = None
    #: The address that the client connected to.
    destination: object = None
    #: What stands behind the addresses in binary headers, as it came: pairs of a type and a value.
    tlvs: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for, by SNI where it spoke TLS to the proxy; ``None`` if not told."""
        value = self.tlv(_AUTHORITY)
        return None if value is None else value.decode()

    @property
    def alpn(self) -> str | None:
        """The protocol that the client and the proxy agreed on; each character is one byte.  ``None`` if not told."""
        value = self.tlv(_ALPN)
        return None if value is None else value.decode("latin-1")

    @property
    def unique_id(self) -> bytes | None:
        """The proxy's own number of the connection, of at most 128 bytes; ``None`` if not told."""
        return self.tlv(_UNIQUE_ID)

    def tlv(self, kind: int) -> bytes | None:
        """The first value of type ``kind``; ``None`` if there is none."""
        return next((value for each, value in self.tlvs if each == kind), None)


def begins_header(data: bytes) -> bool:
    """True if ``data``, one byte at least, may be the beginning of a header, or of one with more behind it."""
    return any(data[: len(mark)] == mark[: len(data)] for mark in (_TEXT, _SIGNATURE))


class HeaderReader:
    """Finds the end of a header in bytes that come in pieces, and reads it.

    ::

        while reader.header is None:
            looked = sock.recv(reader.room, socket.MSG_PEEK)
            sock.recv(reader.push(looked))

    Whatever is pushed, it keeps no more than `MAX_V2_BYTES`, and takes none that belongs to what follows.
    """

    def __init__(self) -> None:
        self._seen = bytearray()
        #: Set when it is complete.
        self.header: ProxyHeader | None = None

    @property
    def begun(self) -> bool:
        """True once a byte of a header was pushed."""
        return bool(self._seen)

    @property
    def room(self) -> int:
        """How many bytes further the header can reach at most, as far as is known; 0 when it is complete."""
        if self.header is not None:
            return 0
        return (self._length(self._seen) or max(_FIRST_LOOK, len(self._seen) + 1)) - len(self._seen)

    def push(self, data: bytes) -> int:
        """How many of ``data``, which comes next in the stream, belong to the header: these it has taken.

        Raises `~tricorn.errors.MalformedHeader`, and nothing else, for bytes that are no header; for the most part at
        the first that is wrong.
        """
        if self.header is not None or not data:
            return 0
        before = len(self._seen)
        seen = bytes(self._seen) + data[: MAX_V2_BYTES - before]
        if not begins_header(seen):
            raise MalformedHeader(f"the peer sent no PROXY header; it began with {seen[:16]!r}")
        length = self._length(seen)
        self._seen[:] = seen if length is None else seen[:length]
        if length is not None and len(seen) >= length:
            self.header = _read(bytes(self._seen))
        return len(self._seen) - before

    @staticmethod
    def _length(seen: bytes | bytearray) -> int | None:
        """Of the whole header, ``None`` while that cannot be known."""
        if seen[:1] == _TEXT[:1]:
            return _text_length(seen)
        if len(seen) < _FIXED:
            return None
        length = _FIXED + int.from_bytes(seen[14:16], "big")
        if length > MAX_V2_BYTES:
            raise MalformedHeader(f"a PROXY header of {length} bytes; at most {MAX_V2_BYTES} are read")
        return length


def _text_length(seen: bytes | bytearray) -> int | None:
    end = seen.find(b"\n", 0, MAX_V1_BYTES)
    if end < 0 and len(seen) >= MAX_V1_BYTES:
        raise MalformedHeader(f"a PROXY header in text does not end within {MAX_V1_BYTES} bytes")
    return None if end < 0 else end + 1


def _read(header: bytes) -> ProxyHeader:
    return _read_text(header) if header[:1] == _TEXT[:1] else _read_binary(header)


# -- version 1


def _read_text(header: bytes) -> ProxyHeader:
    if not header.endswith(b"\r\n"):
        raise MalformedHeader("the PROXY header ends in a bare LF; CR LF must end it")
    words = header[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(1)
    family = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}.get(words[1])
    if family is None or len(words) != 6:
        raise MalformedHeader(
            f"the PROXY header is {header!r}; after PROXY come TCP4, TCP6 or UNKNOWN, two addresses and two ports"
        )
    hosts = [_host(family, word) for word in words[2:4]]
    source, destination = (_inet(family, host, _port(word)) for host, word in zip(hosts, words[4:], strict=True))
    return ProxyHeader(1, source, destination)


def _host(family: int, word: bytes) -> bytes:
    try:
        return socket.inet_pton(family, word.decode("ascii"))
    except (OSError, ValueError) as error:
        name = "IPv4" if family == socket.AF_INET else "IPv6"
        raise MalformedHeader(f"the PROXY header has {word!r} where an {name} address belongs") from error


def _port(word: bytes) -> int:
    if not (word.isdigit() and len(word) <= 5 and (word == b"0" or word[:1] != b"0") and int(word) <= 65535):
        raise MalformedHeader(f"the PROXY header has {word!r} where a port from 0 to 65535 belongs")
    return int(word)


def _inet(family: int, host: bytes, port: int) -> tuple[str | int, ...]:
    """As the kernel's addresses look in Python."""
    text = socket.inet_ntop(family, host)
    return (text, port) if family == socket.AF_INET else (text, port, 0, 0)


# -- version 2


def _read_binary(header: bytes) -> ProxyHeader:
    version, command = divmod(header[12], 16)
    if version != 2 or command > 1:
        raise MalformedHeader(f"a PROXY header of version {version}, command {command}; allowed: version 2, 0 or 1")
    if command == 0:
        return ProxyHeader(2)  # LOCAL: what follows is to be ignored
    kind, block = header[13], header[_FIXED:]
    if kind not in _ADDRESSES:
        raise MalformedHeader(f"a PROXY header with addresses of kind {kind:#04x}, which nobody has defined")
    size = _ADDRESSES[kind]
    if len(block) < size:
        raise MalformedHeader(f"a PROXY header with {len(block)} bytes behind it; its addresses alone take {size}")
    if kind == 0:
        return ProxyHeader(2)  # it knows of no address, and where something else would begin
    source, destination = _addresses(kind, block[:size])
    tlvs = tuple(_tlvs(block[size:]))
    _check(tlvs, header, _FIXED + size)
    return ProxyHeader(2, source, destination, tlvs)


#: Bytes of both addresses together, by family and protocol.
_ADDRESSES = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}


def _addresses(kind: int, block: bytes) -> tuple[object, object]:
    if kind >> 4 == 3:
        return _unix(block[:108]), _unix(block[108:])
    family, size = (socket.AF_INET, 4) if kind >> 4 == 1 else (socket.AF_INET6, 16)
    ports = struct.unpack("!HH", block[2 * size :])
    return _inet(family, block[:size], ports[0]), _inet(family, block[size : 2 * size], ports[1])


def _unix(field: bytes) -> str | bytes:
    """A path; bytes for an abstract name, as accept(2) gives it; ``""`` for a client without any."""
    if field[:1] != b"\0":
        return os.fsdecode(field.partition(b"\0")[0])
    name = field.rstrip(b"\0")
    return name or ""


def _tlvs(block: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(block):
        value = at + 3
        end = value + int.from_bytes(block[at + 1 : value], "big")
        if value > len(block) or end > len(block):
            raise MalformedHeader("the last field of the PROXY header goes beyond its end")
        yield block[at], block[value:end]
        at = end


def _check(tlvs: tuple[tuple[int, bytes], ...], header: bytes, start: int) -> None:
    seen: dict[int, bytes] = {}
    for kind, value in tlvs:
        if kind in _ONCE and kind in seen:
            raise MalformedHeader(f"the PROXY header has two fields of the kind {_ONCE[kind]}")
        seen[kind] = value
        if kind == _CRC:
            _check_crc(value, header, start + 3)
        start += 3 + len(value)
    if len(seen.get(_UNIQUE_ID, b"")) > _MAX_UNIQUE_ID:
        raise MalformedHeader(f"a unique id of {len(seen[_UNIQUE_ID])} bytes; at most {_MAX_UNIQUE_ID} are allowed")
    _check_host(seen.get(_AUTHORITY, b"."))


def _check_host(name: bytes) -> None:
    """UTF-8 without a control character: it comes to stand in logs, and in names of files."""
    try:
        printable = name.decode().isprintable()
    except UnicodeDecodeError:
        printable = False
    if not printable or not 0 < len(name) <= _MAX_HOST:
        raise MalformedHeader(f"the authority {name[:64]!r} is no host name")


def _check_crc(value: bytes, header: bytes, at: int) -> None:
    """Of the whole header, with zeros in the place of the CRC itself: section 2.2.4."""
    if len(value) != 4:
        raise MalformedHeader(f"a CRC32c of {len(value)} bytes; it has 4")
    counted = crc32c(header[:at] + b"\0\0\0\0" + header[at + 4 :])
    if counted != int.from_bytes(value, "big"):
        raise MalformedHeader(f"the PROXY header's CRC32c is {value.hex()}, and it should be {counted:08x}")


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli's polynomial, reflected: RFC 3720 appendix B.4."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRCS[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRCS = tuple(map(_crc_of_byte, range(256)))
