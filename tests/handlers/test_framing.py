"""Framings: how messages lie in a stream of bytes, without I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tricorn.errors import ConfigurationError, FramingError
from tricorn.handlers import Chunks, Delimited, FixedSize, LengthPrefixed, Lines, RecordMarked
from tricorn.messages import Framing

# Small limits, so that what hypothesis makes up crosses them; few letters, so that delimiters come up.
LETTERS = b"ab\r\n\x00\x01\x02\x80\xff"
FRAMINGS: dict[str, Framing] = {
    "lines": Lines(5),
    "lines, unterminated": Lines(5, unterminated=True),
    "nul": Delimited(max_length=5),
    "crlf": Delimited(b"\r\n", max_length=5),
    "overlapping": Delimited(b"aab", max_length=5),
    "doubled": Delimited(b"aa", max_length=5),
    "one byte": LengthPrefixed(1, max_length=5),
    "four bytes": LengthPrefixed(4, max_length=300),
    "little": LengthPrefixed(2, "little", max_length=300),
    "fixed": FixedSize(3),
    "records": RecordMarked(5),
}


def outcome(framing: Framing, pieces: Iterable[bytes], *, packet: bool = False) -> tuple[list[bytes], str]:
    """The messages of a whole conversation, and how it broke."""
    decoder = framing.decoder()
    found = [message for piece in pieces if piece for message in decoder.feed(piece)]
    found += decoder.end(packet=packet)
    return found, str(decoder.fault or "")


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """``data`` in pieces."""
    edges = [0, *sorted({min(place, len(data)) for place in places}), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def each_byte(data: bytes) -> list[bytes]:
    """``data`` byte by byte."""
    return [data[n : n + 1] for n in range(len(data))]


def wire(name: str) -> st.SearchStrategy[bytes]:
    """Bytes that mean something to the framing, more or less."""
    noise = st.lists(st.sampled_from(LETTERS), max_size=40).map(bytes)
    if name == "records":
        marks = st.tuples(st.booleans(), st.integers(0, 4), st.binary(max_size=4)).map(
            lambda each: ((each[0] << 31) | each[1]).to_bytes(4, "big") + each[2]
        )
        return st.one_of(noise, st.lists(marks, max_size=6).map(b"".join))
    return noise


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
def test_where_it_is_cut_makes_no_difference(name: str, data: st.DataObject) -> None:
    """The same bytes give the same messages and the same fault, in whatever pieces they come."""
    framing = FRAMINGS[name]
    sent = data.draw(wire(name))
    whole = outcome(framing, [sent])
    assert outcome(framing, each_byte(sent)) == whole
    assert outcome(framing, cut(sent, data.draw(st.lists(st.integers(0, 40), max_size=5)))) == whole


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
def test_the_short_cut_says_the_same(name: str, data: st.DataObject) -> None:
    """`one` returns what `feed` would, and takes nothing in if it does not."""
    framing = FRAMINGS[name]
    before, piece = data.draw(wire(name)), data.draw(wire(name))
    short, long = framing.decoder(), framing.decoder()
    assert short.feed(before) == long.feed(before)
    message = short.one(piece)
    found = long.feed(piece)
    if message is None:
        assert short.feed(piece) == found
    else:
        assert found == [message]
        assert long.pending == 0
        assert long.fault is None
    assert short.end() == long.end()
    assert str(short.fault) == str(long.fault)


def messages_for(name: str) -> st.SearchStrategy[bytes]:
    """What the framing can carry both ways."""
    any_bytes = st.lists(st.sampled_from(LETTERS), max_size=5).map(bytes)
    if name.startswith("lines"):  # a CR at the end of a line is part of its end for whoever reads it
        return any_bytes.filter(lambda each: b"\n" not in each and not each.endswith(b"\r"))
    if name == "fixed":
        return st.lists(st.sampled_from(LETTERS), min_size=3, max_size=3).map(bytes)
    framing = FRAMINGS[name]
    if isinstance(framing, Delimited):
        return any_bytes.filter(lambda each: (each + framing.delimiter).find(framing.delimiter) == len(each))
    return any_bytes


@pytest.mark.parametrize("name", FRAMINGS)
@given(data=st.data())
def test_round_trip(name: str, data: st.DataObject) -> None:
    """What is encoded is decoded again, and nothing is left over."""
    framing = FRAMINGS[name]
    sent = data.draw(st.lists(messages_for(name), max_size=5))
    decoder = framing.decoder()
    assert decoder.feed(b"".join(map(framing.encode, sent))) == sent
    assert decoder.pending == 0
    assert decoder.end() == []
    assert decoder.fault is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines(end: bytes) -> None:
    """LF and CR LF both end a line; one CR in front of the LF is no part of it, any other is."""
    framing = Lines(end=end)
    sent = b"one\ntwo\r\n\r\n\nthree\r\r\nfo\rur\n"
    assert outcome(framing, [sent]) == ([b"one", b"two", b"", b"", b"three\r", b"fo\rur"], "")
    assert framing.encode(b"reply") == b"reply" + end


def test_unterminated() -> None:
    """Bytes without an end are a last line where that was asked for, and at the end of a datagram; else an error."""
    assert outcome(Lines(unterminated=True), [b"one\ntw", b"o"]) == ([b"one", b"two"], "")
    assert outcome(Lines(), [b"one\ntwo"], packet=True) == ([b"one", b"two"], "")
    assert outcome(Delimited(b"--"), [b"one--two-"], packet=True) == ([b"one", b"two-"], "")
    found, fault = outcome(Lines(), [b"one\ntw", b"o"])
    assert (found, fault) == ([b"one"], "the stream ended in the middle of a line: 3 bytes without b'\\n'")


def test_an_empty_packet_has_no_lines() -> None:
    """Nothing ends where nothing is."""
    for framing in (Lines(), Delimited(), LengthPrefixed(), RecordMarked(), FixedSize(3)):
        assert framing.decoder().one(b"") is None
        assert outcome(framing, [b""], packet=True) == ([], "")


def test_length_prefixed() -> None:
    """The prefix counts the message alone, in the size and order that were asked for; an empty message is one."""
    assert LengthPrefixed(3).encode(b"ab") == b"\0\0\2ab"
    assert LengthPrefixed(2, "little").encode(b"ab") == b"\2\0ab"
    assert outcome(LengthPrefixed(1), [b"\2ab\0\1", b"c"]) == ([b"ab", b"", b"c"], "")


def test_fixed_size() -> None:
    """Every so many bytes are a message, and what is left at the end is an error."""
    found, fault = outcome(FixedSize(2), [b"abc", b"de"])
    assert (found, fault) == (
        [b"ab", b"cd"],
        "the stream ended in the middle of a message: 1 of the 2 bytes of its body",
    )


def test_record_marked() -> None:
    """Fragments are put together until one has the highest bit set: RFC 5531, section 11."""
    sent = b"\0\0\0\2ab\0\0\0\0\x80\0\0\1c\x80\0\0\0"
    assert outcome(RecordMarked(), [sent]) == ([b"abc", b""], "")
    assert RecordMarked().encode(b"abc") == b"\x80\0\0\3abc"


def test_chunks() -> None:
    """Whatever arrives is a message, in several where it is too long; on datagrams an empty one is, too."""
    decoder = Chunks(3).decoder()
    assert decoder.feed(b"ab") == [b"ab"]
    assert decoder.feed(b"abcdefg") == [b"abc", b"def", b"g"]
    assert decoder.feed(b"") == [b""]
    assert decoder.end() == []
    assert (decoder.pending, decoder.fault) == (0, None)
    assert Chunks().encode(b"as it is") == b"as it is"


# -- limits

AT_THE_LIMIT = [
    pytest.param(Lines(4), b"abcd\n", b"abcde\n", id="lines"),
    pytest.param(Lines(4), b"abcd\r\n", b"abcde\r\n", id="lines with CR"),
    pytest.param(Delimited(max_length=4), b"abcd\0", b"abcde\0", id="delimited"),
    pytest.param(Delimited(b"\r\n", max_length=4), b"abcd\r\n", b"abcde\r\n", id="two delimiters"),
    pytest.param(LengthPrefixed(1, max_length=4), b"\4abcd", b"\5abcde", id="length prefixed"),
    pytest.param(RecordMarked(4), b"\0\0\0\2ab\x80\0\0\2cd", b"\0\0\0\2ab\x80\0\0\3cde", id="records"),
]


@pytest.mark.parametrize(("framing", "longest", "too_long"), AT_THE_LIMIT)
@pytest.mark.parametrize("pieces", [lambda data: [data], each_byte], ids=["whole", "byte by byte"])
def test_limit(framing: Framing, longest: bytes, too_long: bytes, pieces: Callable[[bytes], list[bytes]]) -> None:
    """A message of exactly the limit passes; one byte more is a fault that names the limit, and ends everything."""
    assert outcome(framing, pieces(longest * 2)) == ([b"abcd"] * 2, "")
    found, fault = outcome(framing, pieces(longest + too_long + longest))
    assert found == [b"abcd"]
    assert "max_length (4)" in fault


@pytest.mark.parametrize("framing", [Lines(4), Lines(4, unterminated=True), Delimited(b"\r\n", max_length=4)])
def test_limit_without_an_end(framing: Framing) -> None:
    """The last message of a packet, or of a stream, is not longer than others."""
    packet = isinstance(framing, Delimited) or not framing.unterminated  # type: ignore[attr-defined]
    assert outcome(framing, [b"abcd"], packet=packet) == ([b"abcd"], "")
    for sent in (b"abcde", b"abcd\r"):
        found, fault = outcome(framing, [sent], packet=packet)
        assert (found, fault[-30:]) == ([], "of more than max_length (4) bytes"[-30:])


def test_an_announced_length_is_refused_at_once() -> None:
    """A prefix of 4 GiB is refused when it is complete, and nothing of what follows is kept."""
    decoder = LengthPrefixed().decoder()
    assert decoder.feed(b"\xff\xff\xff") == []
    assert decoder.fault is None
    assert decoder.feed(b"\xff" + bytes(100_000)) == []
    assert "a length prefix of 4294967295 bytes, above max_length (1048576)" in str(decoder.fault)
    assert decoder.pending < 10
    assert decoder.feed(bytes(100_000)) == []
    assert decoder.pending < 10
    assert decoder.end() == []


def test_an_announced_fragment_is_refused_at_once() -> None:
    """So is a fragment of 2 GiB, or one that makes the record too long."""
    for sent in (b"\x7f\xff\xff\xff", b"\0\0\0\1a\x7f\xff\xff\xff", b"\0\x10\0\0" + bytes(1_048_576) + b"\x80\0\0\1"):
        decoder = RecordMarked().decoder()
        assert decoder.feed(sent) == []
        assert "above max_length (1048576)" in str(decoder.fault)


@pytest.mark.parametrize("fragment", [b"\0\0\0\0", b"\0\0\0\1a"], ids=["empty", "of one byte"])
def test_a_record_that_never_ends(fragment: bytes) -> None:
    """A record of fragments none of which is the last is refused after 4,096 of them."""
    decoder = RecordMarked().decoder()
    assert decoder.feed(fragment * 4096) == []
    assert decoder.fault is None
    assert decoder.pending > 0
    assert decoder.feed(fragment * 10) == []
    assert "more than 4096 fragments" in str(decoder.fault)


@pytest.mark.parametrize(
    ("framing", "sent", "said"),
    [
        (LengthPrefixed(2), b"\0", "1 of the 2 bytes of its header"),
        (LengthPrefixed(2), b"\0\3ab", "2 of the 3 bytes of its body"),
        (RecordMarked(), b"\0\0\0\2ab", "0 of the 4 bytes of its header"),
        (RecordMarked(), b"\0\0\0\0", "0 of the 4 bytes of its header"),
        (Delimited(), b"ab", "2 bytes without b'\\x00'"),
    ],
)
def test_cut_off(framing: Framing, sent: bytes, said: str) -> None:
    """The end in the middle of a message is a fault that says how far it got."""
    found, fault = outcome(framing, [sent])
    assert found == []
    assert said in fault


# -- work and memory

LONG = 4_000_000
MOST = 5_000_000
LONG_MESSAGES = [
    pytest.param(Lines(MOST), b"a" * LONG + b"\n", id="lines"),
    pytest.param(Lines(MOST), b"\r" * LONG + b"\n", id="lines of CR"),
    pytest.param(Delimited(b"\r\n", MOST), b"\r" * LONG + b"\r\n", id="half delimiters"),
    pytest.param(LengthPrefixed(max_length=MOST), LONG.to_bytes(4, "big") + b"a" * LONG, id="length prefixed"),
    pytest.param(FixedSize(LONG), b"a" * LONG, id="fixed"),
    pytest.param(RecordMarked(MOST), (0x80000000 | LONG).to_bytes(4, "big") + b"a" * LONG, id="records"),
    pytest.param(RecordMarked(MOST), (b"\0\0\3\xe8" + bytes(1000)) * 4000 + b"\x80\0\0\0", id="fragments"),
]


@pytest.mark.parametrize(("framing", "sent"), LONG_MESSAGES)
def test_small_pieces_of_a_long_message(framing: Framing, sent: bytes) -> None:
    """Four megabytes in pieces of eight bytes make a message.  If what is here were copied for each piece, that would
    be a terabyte, and this would not end in time."""
    decoder = framing.decoder()
    found = [message for n in range(0, len(sent), 8) for message in decoder.feed(sent[n : n + 8])]
    assert [len(each) for each in found] in ([LONG], [LONG - 1])  # one CR may belong to the end
    assert decoder.pending == 0


@pytest.mark.parametrize(("framing", "sent"), LONG_MESSAGES)
def test_calls_for_small_pieces(framing: Framing, sent: bytes) -> None:
    """The last byte of many takes as many calls as the first."""

    def calls(start: int, stop: int) -> int:
        counted = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        pieces = [sent[n : n + 1] for n in range(start, stop)]
        sys.setprofile(count)
        try:
            for piece in pieces:
                decoder.feed(piece)
        finally:
            sys.setprofile(None)
        return counted

    decoder = framing.decoder()
    first = calls(0, 5000)
    assert first > 5000
    for n in range(5000, len(sent) - 10_000, 65_536):
        decoder.feed(sent[n : min(n + 65_536, len(sent) - 10_000)])
    assert calls(len(sent) - 10_000, len(sent) - 5000) < 1.5 * first


@pytest.mark.parametrize("size", [1, 2])
def test_small_pieces_take_no_more_room_than_they_hold(size: int) -> None:
    """What comes in pieces of a few bytes is kept as bytes, and not as a hundred thousand objects."""
    import tracemalloc

    length = 200_000
    decoder = LengthPrefixed().decoder()
    decoder.feed(length.to_bytes(4, "big"))
    tracemalloc.start()
    try:
        for n in range(0, length - size, size):
            decoder.feed(n.to_bytes(4, "big")[-size:])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.pending > length - 2 * size
    assert held < 1.5 * length


# -- encoding


@pytest.mark.parametrize(
    ("framing", "message", "said"),
    [
        (Lines(), b"a\nb", "line feed"),
        (Delimited(), b"a\0b", "the delimiter b'\\x00' occurs"),
        (Delimited(b"aa"), b"ba", "the delimiter b'aa' occurs"),
        (LengthPrefixed(1), bytes(256), "256 bytes do not fit a length prefix of 1 bytes"),
        (FixedSize(3), b"ab", "a reply of 2 bytes; with FixedSize(3) each has 3"),
    ],
)
def test_what_cannot_be_encoded(framing: Framing, message: bytes, said: str) -> None:
    """A reply that the peer would take for something else is refused."""
    with pytest.raises(FramingError) as refused:
        framing.encode(message)
    assert said in str(refused.value)


# -- bad configurations


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Lines(0), "Lines(max_length=0): max_length must be a whole number from 1 to 2147483647"),
        (lambda: Lines(True), "Lines(max_length=True): max_length must be a whole number from 1 to 2147483647"),
        (lambda: Lines(end=b"\r"), "Lines(end=b'\\r'): end must be b'\\n' or b'\\r\\n'"),
        (lambda: Lines(error_reply="no"), "Lines(error_reply='no'): error_reply must be bytes, at least one"),
        (lambda: Delimited(b""), "Delimited(delimiter=b''): delimiter must be bytes, at least one"),
        (lambda: Delimited("\0"), "Delimited(delimiter='\\x00'): delimiter must be bytes, at least one"),
        (lambda: Delimited(max_length=None), "Delimited(max_length=None): max_length must be a whole number"),
        (lambda: LengthPrefixed(0), "LengthPrefixed(size=0): size must be a whole number from 1 to 8"),
        (lambda: LengthPrefixed(9), "LengthPrefixed(size=9): size must be a whole number from 1 to 8"),
        (lambda: LengthPrefixed(order="middle"), "LengthPrefixed(order='middle'): order must be 'big' or 'little'"),
        (lambda: FixedSize(0), "FixedSize(size=0): size must be a whole number from 1 to 2147483647"),
        (lambda: RecordMarked(1.5), "RecordMarked(max_length=1.5): max_length must be a whole number"),
        (lambda: Chunks(-1), "Chunks(max_length=-1): max_length must be a whole number"),
    ],
)
def test_bad_configurations(make: Callable[[], Framing], sentence: str) -> None:
    """Each says the option, what was given, and what is allowed; before anything runs."""
    with pytest.raises(ConfigurationError) as refused:
        make()
    assert str(refused.value).startswith(sentence)
