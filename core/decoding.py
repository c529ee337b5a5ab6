"""Taking messages out of a stream of bytes: incremental decoders, without I/O, for the framings of `tricorn.handlers`.

Every one has a bound on what it keeps, and works in proportion to what arrives: pieces are collected and joined once.
What the peer claims (a length prefix of 4 GiB) is compared with the bound before a byte of it is kept.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from tricorn.errors import FramingError
from tricorn.messages import Decoder

__all__ = ["Fixed", "Prefixed", "Records", "Separated", "Whatever"]

#: Pieces of one message that are kept as they came.
MANY_PIECES = 64
#: Numbers, because ``b"\n" in data`` takes 150 ns more than ``10 in data``.
_LF, _CR = b"\n\r"


class _Pieces:
    """What has arrived of an incomplete message: collected piece by piece, joined once, or twice if they are many."""

    __slots__ = ("_bulk", "length", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._bulk: bytearray | None = None
        self.length = 0

    def add(self, part: bytes) -> None:
        self.parts.append(part)
        self.length += len(part)
        if len(self.parts) >= MANY_PIECES:  # as objects, pieces of two bytes would take twenty times their room
            self._bulk = bytearray() if self._bulk is None else self._bulk
            self._bulk += b"".join(self.parts)
            self.parts = [b""]

    def take(self) -> bytes:
        whole = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        if self._bulk is not None:
            self._bulk += whole
            whole, self._bulk = bytes(self._bulk), None
        self.parts = []
        self.length = 0
        return whole

    def ends_with_cr(self) -> bool:
        last = self.parts[-1] or self._bulk or b""
        return last.endswith(b"\r")


#: What a decoder keeps between messages: thousands of idle peers share it.
_NOTHING = _Pieces()


class _Keeping(Decoder):
    """Keeps pieces, in an object that is made when the first comes."""

    __slots__ = ("_kept",)

    _kept: _Pieces

    def _keep(self, part: bytes) -> None:
        if self._kept is _NOTHING:
            self._kept = _Pieces()
        self._kept.add(part)


class Separated(_Keeping):
    """Messages that end with a delimiter."""

    __slots__ = (
        "_delimiter", "_max", "_overlap", "_quick", "_strip_cr", "_unterminated", "_what", "fault",
    )  # fmt: skip

    def __init__(self, what: str, delimiter: bytes, max_length: int, *, strip_cr: bool, unterminated: bool) -> None:
        self.fault: FramingError | None = None
        self._what, self._delimiter, self._max = what, delimiter, max_length
        self._strip_cr, self._unterminated = strip_cr, unterminated
        self._kept = _NOTHING
        #: The beginning of a delimiter that may go on in the next piece.
        self._overlap = b""
        #: Nothing is left of the piece before, and the delimiter cannot lie across two.
        self._quick = len(delimiter) == 1

    def one(self, data: bytes) -> bytes | None:
        length = len(data)
        if not self._quick or not data or data.find(self._delimiter) != length - 1 or length > self._max:
            return None
        return data[:-1] if not self._strip_cr or _CR not in data else data[:-1].removesuffix(b"\r")

    def feed(self, data: bytes) -> list[bytes]:
        if self._quick and len(data) <= self._max:  # the ordinary case: whole messages, or the beginning of one
            messages = data.split(self._delimiter)
            rest = messages.pop()
            if rest:
                self._keep(rest)
                self._quick = False
            if self._strip_cr and _CR in data:
                messages = [each.removesuffix(b"\r") for each in messages]
            return messages
        messages = self._feed(data)
        self._quick = len(self._delimiter) == 1 and not self._kept.length and self.fault is None
        return messages

    def _feed(self, data: bytes) -> list[bytes]:
        if self.fault is not None:
            return []
        if self._overlap:
            data, self._overlap = self._overlap + data, b""
        messages = data.split(self._delimiter)
        rest = messages.pop()
        if messages and self._kept.length:
            self._keep(messages[0])
            messages[0] = self._kept.take()
        if len(self._delimiter) > 1 and rest:
            rest = self._set_overlap_apart(rest)
        if rest:
            self._keep(rest)
        if self._strip_cr and _CR in data:
            messages = [each.removesuffix(b"\r") for each in messages]
        elif self._strip_cr and messages and messages[0].endswith(b"\r"):  # the piece before ended in it
            messages[0] = messages[0][:-1]
        if self._kept.length > self._max or any(len(each) > self._max for each in messages):
            return self._break_at_the_long_one(messages)
        return messages

    def _set_overlap_apart(self, rest: bytes) -> bytes:
        for n in range(min(len(self._delimiter) - 1, len(rest)), 0, -1):
            if self._delimiter.startswith(rest[-n:]):
                self._overlap = rest[-n:]
                return rest[:-n]
        return rest

    def _break_at_the_long_one(self, messages: list[bytes]) -> list[bytes]:
        good: list[bytes] = []
        for each in messages:
            if len(each) > self._max:
                break
            good.append(each)
        else:
            if self._kept.length == self._max + 1 and self._strip_cr and self._kept.ends_with_cr():
                return good  # the line may yet end right behind it
        self._kept.take()
        self.fault = FramingError(f"a {self._what} of more than max_length ({self._max}) bytes")
        return good

    def end(self, *, packet: bool = False) -> list[bytes]:
        if self._overlap:
            self._keep(self._overlap)
            self._overlap = b""
        if not self._kept.length or self.fault is not None:
            return []
        if (packet or self._unterminated) and self._kept.length > self._max:
            return self._break_at_the_long_one([self._kept.take()])
        if packet or self._unterminated:
            return [self._kept.take()]
        self.fault = FramingError(
            f"the stream ended in the middle of a {self._what}: {self._kept.length} bytes without {self._delimiter!r}"
        )
        return []

    @property
    def pending(self) -> int:
        return self._kept.length + len(self._overlap)


class _Counted(_Keeping):
    """Messages whose length is known before they come; ``header`` bytes say it."""

    __slots__ = ("_header", "_in_header", "_wanted", "fault")

    def __init__(self, header: int) -> None:
        self.fault: FramingError | None = None
        self._header = header
        self._kept = _NOTHING
        #: The length of what comes next, and whether that is a header.
        self._wanted, self._in_header = header or 1, header > 0

    def feed(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        position, end = 0, len(data)
        while self.fault is None:
            missing = self._wanted - self._kept.length
            if end - position < missing:
                break
            part = data[position : position + missing]
            position += missing
            if self._kept.length:
                self._keep(part)
                part = self._kept.take()
            self._turn(part, messages)
        if position < end and self.fault is None:
            self._keep(data[position:] if position else data)
        return messages

    def _turn(self, part: bytes, messages: list[bytes]) -> None:
        """A whole header, or a whole body."""
        if self._in_header:
            self._read_header(part)
            return
        self._body(part, messages)
        self._wanted, self._in_header = self._header, True

    def _read_header(self, header: bytes) -> None:
        raise NotImplementedError

    def _body(self, body: bytes, messages: list[bytes]) -> None:
        messages.append(body)

    def _expect(self, length: int) -> None:
        self._wanted, self._in_header = length, False

    def end(self, *, packet: bool = False) -> list[bytes]:
        if self.fault is None and not self._between:
            what = "header" if self._in_header else "body"
            self.fault = FramingError(
                f"the {'packet' if packet else 'stream'} ended in the middle of a message: {self._kept.length} of the "
                f"{self._wanted} bytes of its {what}"
            )
        return []

    @property
    def _between(self) -> bool:
        return self._in_header and not self._kept.length

    @property
    def pending(self) -> int:
        return self._kept.length if self._in_header else self._header + self._kept.length


class Prefixed(_Counted):
    """Messages behind their length."""

    __slots__ = ("_max", "_order")

    def __init__(self, size: int, order: Literal["big", "little"], max_length: int) -> None:
        super().__init__(size)
        self._order, self._max = order, max_length

    def one(self, data: bytes) -> bytes | None:
        size = self._header
        if not self._between or len(data) - size != int.from_bytes(data[:size], self._order) or len(data) > self._max:
            return None
        return data[size:]

    def _read_header(self, header: bytes) -> None:
        length = int.from_bytes(header, self._order)
        if length > self._max:
            self.fault = FramingError(f"a length prefix of {length} bytes, above max_length ({self._max})")
        self._expect(length)


class Fixed(_Counted):
    """Messages of one size."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        super().__init__(0)
        self._size = self._wanted = size

    def one(self, data: bytes) -> bytes | None:
        return data if len(data) == self._size and not self._kept.length else None

    def _turn(self, part: bytes, messages: list[bytes]) -> None:
        messages.append(part)

    @property
    def _between(self) -> bool:
        return not self._kept.length


class Records(_Counted):
    """Records in fragments, each behind its mark."""

    __slots__ = ("_fragments", "_last", "_max", "_record")

    #: Fragments of one record; a peer could send empty ones for ever.
    MAX_FRAGMENTS: ClassVar[int] = 4096

    def __init__(self, max_length: int) -> None:
        super().__init__(4)
        self._max = max_length
        self._record = _Pieces()
        self._fragments = 0
        self._last = False

    def _read_header(self, header: bytes) -> None:
        mark = int.from_bytes(header, "big")
        self._last, length = bool(mark >> 31), mark & 0x7FFFFFFF
        length_so_far = self._record.length + length
        if length_so_far > self._max:
            self.fault = FramingError(f"a record of at least {length_so_far} bytes, above max_length ({self._max})")
        elif self._fragments >= self.MAX_FRAGMENTS:
            self.fault = FramingError(f"a record of more than {self.MAX_FRAGMENTS} fragments that does not end")
        self._expect(length)

    def _body(self, body: bytes, messages: list[bytes]) -> None:
        self._record.add(body)
        self._fragments += 1
        if self._last:
            self._fragments = 0
            messages.append(self._record.take())

    @property
    def _between(self) -> bool:
        return super()._between and not self._fragments

    @property
    def pending(self) -> int:
        return super().pending + self._record.length + bool(self._fragments)


class Whatever(Decoder):
    """What arrives, in parts that are not too long."""

    __slots__ = ("_max", "fault")
    pending = 0

    def __init__(self, max_length: int) -> None:
        self.fault: FramingError | None = None
        self._max = max_length

    def feed(self, data: bytes) -> list[bytes]:
        if len(data) <= self._max:
            return [data]
        return [data[start : start + self._max] for start in range(0, len(data), self._max)]

    def end(self, *, packet: bool = False) -> list[bytes]:
        return []
