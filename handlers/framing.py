"""How messages lie in a stream of bytes: six framings, without I/O.

Each has an encoder, and decoders of `tricorn.decoding` with a bound on what they keep.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import Attribute, field, frozen

from tricorn.checks import optional, refuse_option, whole_number
from tricorn.decoding import Fixed, Prefixed, Records, Separated, Whatever
from tricorn.errors import FramingError
from tricorn.messages import Decoder, Framing

__all__ = ["Chunks", "Delimited", "FixedSize", "LengthPrefixed", "Lines", "RecordMarked"]

#: Bytes: as much as most line protocols allow many times over, and little beside a thread's stack.
MAX_LINE = 65_536
MAX_MESSAGE = 1_048_576


def _bytes(framing: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, bytes) or not value:
        refuse_option(framing, attribute.name, value, "bytes, at least one")


_LENGTH = whole_number(1, 2**31 - 1)


@frozen
class Lines(Framing):
    r"""Lines of at most ``max_length`` bytes, which end with LF, or CR LF; neither is part of the message.

    ``end`` closes each reply, ``b"\\n"`` by default; use ``b"\\r\\n"`` where the protocol says so (RFC 5321, RFC 9112).
    ``unterminated``: bytes without an end, at the end of the stream, are a last line too, as with ``readline``; else
    that is an error.  The end of a datagram always ends a line.  ``error_reply`` is sent, as it is, to a peer that
    exceeds the limit; ``None`` only closes.  Replaces ``rfile.readline()`` in a loop, which has no limit.
    """

    max_length: int = field(default=MAX_LINE, validator=_LENGTH)
    end: bytes = field(default=b"\n", kw_only=True)
    unterminated: bool = field(default=False, kw_only=True)
    error_reply: bytes | None = field(default=None, kw_only=True, validator=optional(_bytes), repr=False)

    @end.validator
    def _known_end(self, attribute: object, value: object) -> None:
        if value not in (b"\n", b"\r\n"):
            refuse_option(self, "end", value, r"b'\n' or b'\r\n'")

    def decoder(self) -> Decoder:
        """For one peer."""
        return Separated("line", b"\n", self.max_length, strip_cr=True, unterminated=self.unterminated)

    def encode(self, message: bytes) -> bytes:
        """The line with its end.  Raises `FramingError` if there is an LF in it."""
        if 10 in message:  # takes 150 ns less than b"\n" in message
            raise FramingError(f"a reply with a line feed in it is no line: {message!r:.100}; yield several instead")
        return message + self.end


@frozen
class Delimited(Framing):
    r"""Messages of at most ``max_length`` bytes, each followed by ``delimiter``, by default one NUL byte.

    The delimiter is no part of a message, and may not occur in one.  The end of a datagram ends a message.
    """

    delimiter: bytes = field(default=b"\0", validator=_bytes)
    max_length: int = field(default=MAX_MESSAGE, validator=_LENGTH)
    error_reply: bytes | None = field(default=None, kw_only=True, validator=optional(_bytes), repr=False)

    def decoder(self) -> Decoder:
        """For one peer."""
        return Separated("message", self.delimiter, self.max_length, strip_cr=False, unterminated=False)

    def encode(self, message: bytes) -> bytes:
        """The message and the delimiter.  Raises `FramingError` if it occurs in the message."""
        if (message + self.delimiter).find(self.delimiter) != len(message):
            raise FramingError(f"the delimiter {self.delimiter!r} occurs in the reply {message!r:.100}")
        return message + self.delimiter


@frozen
class LengthPrefixed(Framing):
    """A whole number of ``size`` bytes, 1 to 8, in byte ``order``, and then so many bytes of message.

    The number counts the message alone.  ``max_length`` is 1 MiB by default; a peer that announces more is told
    ``error_reply``, as it is, if there is one, and closed before anything is kept.
    """

    size: int = field(default=4, validator=whole_number(1, 8))
    order: Literal["big", "little"] = field(default="big")
    max_length: int = field(default=MAX_MESSAGE, validator=_LENGTH)
    error_reply: bytes | None = field(default=None, kw_only=True, validator=optional(_bytes), repr=False)

    @order.validator
    def _known_order(self, attribute: object, value: object) -> None:
        if value not in ("big", "little"):
            refuse_option(self, "order", value, "'big' or 'little'")

    def decoder(self) -> Decoder:
        """For one peer."""
        return Prefixed(self.size, self.order, self.max_length)

    def encode(self, message: bytes) -> bytes:
        """Prefix and message.  Raises `FramingError` for a message whose length the prefix cannot hold."""
        try:
            return len(message).to_bytes(self.size, self.order) + message
        except OverflowError as error:
            raise FramingError(f"{len(message)} bytes do not fit a length prefix of {self.size} bytes") from error


@frozen
class FixedSize(Framing):
    """Messages of exactly ``size`` bytes each, replies too."""

    size: int = field(validator=_LENGTH)
    error_reply: bytes | None = field(default=None, kw_only=True, validator=optional(_bytes), repr=False)

    def decoder(self) -> Decoder:
        """For one peer."""
        return Fixed(self.size)

    def encode(self, message: bytes) -> bytes:
        """The message.  Raises `FramingError` if it has another size."""
        if len(message) != self.size:
            raise FramingError(f"a reply of {len(message)} bytes; with FixedSize({self.size}) each has {self.size}")
        return message


@frozen
class RecordMarked(Framing):
    """Records of ONC RPC over TCP, in one or more fragments: RFC 5531, section 11.

    ``max_length`` bounds the whole record, 1 MiB by default, and a record has at most 4,096 fragments.  Replies go out
    in one fragment, longer ones than 2**31 - 1 bytes in several.
    """

    max_length: int = field(default=MAX_MESSAGE, validator=_LENGTH)
    error_reply: bytes | None = field(default=None, kw_only=True, validator=optional(_bytes), repr=False)

    def decoder(self) -> Decoder:
        """For one peer."""
        return Records(self.max_length)

    def encode(self, message: bytes) -> bytes:
        """The record mark, with the bit for the last fragment, and the message."""
        most, parts, position = 0x7FFFFFFF, [], 0
        while len(message) - position > most:
            parts += [most.to_bytes(4, "big"), message[position : position + most]]
            position += most
        rest = message[position:] if position else message
        return b"".join([*parts, (0x80000000 | len(rest)).to_bytes(4, "big"), rest])


@frozen
class Chunks(Framing):
    """No framing: each message is whatever arrived, at least one byte and at most ``max_length``.

    On datagrams it is the whole packet, an empty one too.  Where a stream is cut is chance, so a handler must not care.
    """

    max_length: int = field(default=MAX_LINE, validator=_LENGTH)
    error_reply: None = field(default=None, init=False, repr=False)

    def decoder(self) -> Decoder:
        """For one peer."""
        return Whatever(self.max_length)

    def encode(self, message: bytes) -> bytes:
        """The message."""
        return message
