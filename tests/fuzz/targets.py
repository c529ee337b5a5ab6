"""What is fuzzed: every decoder that reads bytes of a peer, or of another process, and what must hold for any input.

Each target is a function that raises where something does not hold; the first byte of its input says how the rest is
cut into pieces, so that one file is one case.
"""

from __future__ import annotations

from collections.abc import Callable

from tricorn.client_hello import MAX_HELLO_BYTES, read_client_hello
from tricorn.errors import FramingError, MalformedHeader, MalformedHello
from tricorn.handlers import Chunks, Delimited, FixedSize, LengthPrefixed, Lines, RecordMarked
from tricorn.observe.escape import escape, escape_address
from tricorn.proxy_header import MAX_V2_BYTES, HeaderReader, ProxyHeader
from tricorn.report import Report
from tricorn.wire import decode_event

__all__ = ["TARGETS"]

MOST = 64
FRAMINGS = {
    "lines": Lines(max_length=MOST),
    "lines_unterminated": Lines(max_length=MOST, unterminated=True),
    "delimited": Delimited(b"ab", max_length=MOST),
    "length_prefixed": LengthPrefixed(2, max_length=MOST),
    "fixed_size": FixedSize(7),
    "record_marked": RecordMarked(max_length=MOST),
    "chunks": Chunks(max_length=MOST),
}


def _decode(framing, stream: bytes, size: int) -> tuple[list[bytes], bool]:
    decoder, messages = framing.decoder(), []
    for at in range(0, len(stream), size):
        piece = stream[at : at + size]
        one = decoder.one(piece)
        messages += decoder.feed(piece) if one is None else [one]
        assert decoder.pending <= MOST + 8
    messages += decoder.end()
    assert decoder.fault is None or isinstance(decoder.fault, FramingError)
    return messages, decoder.fault is None


def _framing(name: str) -> Callable[[bytes], None]:
    framing = FRAMINGS[name]

    def try_one(data: bytes) -> None:
        """The same messages however the bytes are cut; within the limit; and encoded they are decoded again."""
        size, stream = (data[0] % 16 + 1 if data else 1), data[1:]
        messages, well = _decode(framing, stream, size)
        assert all(len(each) <= MOST for each in messages)
        if name == "chunks":
            assert b"".join(messages) == stream
            return
        assert (messages, well) == _decode(framing, stream, len(stream) or 1)
        encoded = b"".join(framing.encode(each) for each in messages if b"\r" not in each)
        again, still_well = _decode(framing, encoded, size)
        assert still_well
        assert again == [each for each in messages if b"\r" not in each]

    return try_one


def proxy_header(data: bytes) -> None:
    """Read in pieces and at once: the same header or an error of ours, never more than the bound, nothing beyond."""
    size, stream = (data[0] % 64 + 1 if data else 1), data[1:]
    pieces = read_proxy_header(stream, size)
    assert pieces == read_proxy_header(stream, len(stream) or 1)
    if pieces is not None:
        header, taken = pieces
        assert 15 <= taken <= min(MAX_V2_BYTES, len(stream))
        assert (header.source is None) == (header.destination is None)
        assert header.authority is None or header.authority.isprintable()
        assert len(header.unique_id or b"") <= 128
        assert header.alpn is None or len(header.alpn) <= MAX_V2_BYTES
        assert read_proxy_header(stream[:taken], size) == pieces
        assert read_proxy_header(stream[: taken - 1], size) is None


def read_proxy_header(stream: bytes, size: int) -> tuple[ProxyHeader, int] | None:
    """The header and how many bytes it took; ``None`` for something else, or less."""
    reader, at = HeaderReader(), 0
    try:
        while at < len(stream):
            piece = stream[at : at + min(size, reader.room)]
            taken = reader.push(piece)
            assert 0 < taken <= len(piece)
            at += taken
            if reader.header is not None:
                return reader.header, at
            assert taken == len(piece)
    except MalformedHeader:
        pass
    return None


def client_hello(data: bytes) -> None:
    """A name that may stand in a log, or an error of ours; more bytes never unsay what fewer have said."""
    try:
        hello = read_client_hello(data)
    except MalformedHello as error:
        assert str(error)
        return
    if hello is None:
        assert len(data) <= MAX_HELLO_BYTES * 2
        return
    assert hello.server_name is None or (hello.server_name.isascii() and hello.server_name.isprintable())
    assert read_client_hello(data + b"more") == hello


def report(data: bytes) -> None:
    """What a child told: decoded, or a `ValueError`."""
    try:
        told = Report.decode(data)
    except ValueError:
        return
    assert Report.decode(told.encode()) is not None


def event(data: bytes) -> None:
    """What a worker told: decoded, or a `ValueError`."""
    try:
        told = decode_event(data)
    except ValueError:
        return
    assert repr(told)


def log_text(data: bytes) -> None:
    """No control character gets through, nor a line of its own."""
    text = data.decode("utf-8", "surrogateescape")
    for shown in (escape(text), escape_address(text), escape_address((text, 1))):
        assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in shown)
        assert not any(char in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" for char in shown)
        shown.encode("utf-8")


TARGETS: dict[str, Callable[[bytes], None]] = {
    **{name: _framing(name) for name in FRAMINGS},
    "proxy_header": proxy_header,
    "client_hello": client_hello,
    "report": report,
    "event": event,
    "log_text": log_text,
}
