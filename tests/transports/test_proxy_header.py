"""The PROXY protocol's header: what is read, what is refused, and that nothing beyond it is touched."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tricorn.errors import HandshakeError, MalformedHeader
from tricorn.proxy_header import MAX_V1_BYTES, MAX_V2_BYTES, HeaderReader, ProxyHeader, begins_header, crc32c

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
INET = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7") + struct.pack("!HH", 40000, 443)


def tlv(kind, value):
    """One field."""
    return struct.pack("!BH", kind, len(value)) + value


def binary(block=INET, kind=0x11, command=0x21, length=None):
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, kind, len(block) if length is None else length) + block


def with_crc(block, kind=0x11):
    """The same, with its CRC32c as the last field."""
    header = bytearray(binary(block + tlv(3, b"\0\0\0\0"), kind))
    header[-4:] = struct.pack("!I", crc32c(bytes(header)))
    return bytes(header)


def read(data):
    """The header that ``data`` begins with, and what is left behind it."""
    reader = HeaderReader()
    taken = reader.push(data)
    assert reader.header is not None
    return reader.header, data[taken:]


TEXTS = [
    (
        b"PROXY TCP4 192.0.2.1 198.51.100.7 40000 443\r\n",
        ProxyHeader(1, ("192.0.2.1", 40000), ("198.51.100.7", 443)),
    ),
    (
        b"PROXY TCP6 2001:DB8:0::1 ::1 1 65535\r\n",
        ProxyHeader(1, ("2001:db8::1", 1, 0, 0), ("::1", 65535, 0, 0)),
    ),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 0\r\n", ProxyHeader(1, ("0.0.0.0", 0), ("255.255.255.255", 0))),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(1)),
    (b"PROXY UNKNOWN whatever comes is ignored\r\n", ProxyHeader(1)),
    (b"PROXY UNKNOWN " + 3 * b"ffff:ffff:ffff:ffff:ffff:ffff:" + b"\r\n", ProxyHeader(1)),
]
INET6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::1")
BINARIES = [
    (binary(), ProxyHeader(2, ("192.0.2.1", 40000), ("198.51.100.7", 443))),
    (binary(kind=0x12), ProxyHeader(2, ("192.0.2.1", 40000), ("198.51.100.7", 443))),
    (
        binary(INET6 + struct.pack("!HH", 1, 2), kind=0x21),
        ProxyHeader(2, ("2001:db8::1", 1, 0, 0), ("::1", 2, 0, 0)),
    ),
    (binary(b"/run/a".ljust(108, b"\0") + b"\0b".ljust(108, b"\0"), kind=0x31), ProxyHeader(2, "/run/a", b"\0b")),
    (binary(bytes(216), kind=0x31), ProxyHeader(2, "", "")),
    (binary(command=0x20), ProxyHeader(2)),
    (binary(b"", kind=0x00, command=0x20), ProxyHeader(2)),
    (binary(b"anything", kind=0xFF, command=0x20), ProxyHeader(2)),
    (binary(b"anything", kind=0x00), ProxyHeader(2)),
    (
        binary(INET + tlv(4, bytes(100))),
        ProxyHeader(2, ("192.0.2.1", 40000), ("198.51.100.7", 443), ((4, bytes(100)),)),
    ),
]


@pytest.mark.parametrize(("data", "expected"), TEXTS + BINARIES)
def test_a_header_is_read(data, expected):
    """Addresses as accept(2) would give them; none where the proxy speaks for itself, or does not know."""
    assert read(data) == (expected, b"")


@pytest.mark.parametrize(("data", "expected"), TEXTS + BINARIES)
def test_what_follows_is_left_alone(data, expected):
    """However much there is of it."""
    rest = b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" * 1000
    assert read(data + rest) == (expected, rest)


@pytest.mark.parametrize(("data", "expected"), TEXTS + BINARIES)
def test_a_header_may_come_byte_by_byte(data, expected):
    """Each byte of it is taken when it comes, and it is complete with the last and not before."""
    reader = HeaderReader()
    for place in range(len(data)):
        assert reader.header is None
        assert reader.room > 0
        assert reader.push(data[place : place + 1]) == 1
    assert reader.header == expected
    assert reader.room == 0
    assert reader.push(b"more") == 0


def test_the_fields_behind_the_addresses():
    """Authority, ALPN and unique id by name, others by number, all as they came."""
    fields = tlv(2, b"example.org") + tlv(1, b"h2") + tlv(5, b"\0id") + tlv(0xE0, b"own") + tlv(0xE0, b"again")
    header, _ = read(with_crc(INET + fields))
    assert (header.authority, header.alpn, header.unique_id) == ("example.org", "h2", b"\0id")
    assert header.tlv(0xE0) == b"own"
    assert header.tlv(0xE1) is None
    assert [kind for kind, _ in header.tlvs] == [2, 1, 5, 0xE0, 0xE0, 3]


def test_a_header_without_fields():
    """Says nothing of them."""
    header, _ = read(binary())
    assert (header.authority, header.alpn, header.unique_id) == (None, None, None)


def test_the_checksum_is_that_of_castagnoli():
    """The check value of RFC 3720, and of every catalogue of CRCs."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\n", "sent no PROXY header; it began with b'GET / HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00", "sent no PROXY header"),
        (b"PROXY\tTCP4", "sent no PROXY header"),
        (b"proxy TCP4", "sent no PROXY header"),
        (b"PROXY \r\n", "after PROXY come TCP4, TCP6 or UNKNOWN"),
        (b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", "after PROXY come"),
        (b"PROXY UNKNOWNX\r\n", "after PROXY come"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", "after PROXY come"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", "after PROXY come"),
        (b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n", "after PROXY come"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", "bare LF"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n", "where a port"),
        (b"PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", "where an IPv4 address"),
        (b"PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n", "where an IPv4 address"),
        (b"PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", "where an IPv4 address"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "where an IPv4 address"),
        (b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", "where an IPv6 address"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "where an IPv6 address"),
        (b"PROXY TCP4 1.1.1.1\0 2.2.2.2 1 2\r\n", "where an IPv4 address"),
        (b"PROXY TCP4 \xd9\xa1.1.1.1 2.2.2.2 1 2\r\n", "where an IPv4 address"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n", "where a port from 0 to 65535"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n", "where a port"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n", "where a port"),
        (b"PROXY TCP4 1.1.1.1 2.2.2.2 1  \r\n", "after PROXY come"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", f"does not end within {MAX_V1_BYTES}"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r", f"does not end within {MAX_V1_BYTES}"),
        (binary(command=0x11), "version 1, command 1"),
        (binary(command=0x22), "version 2, command 2"),
        (binary(kind=0x41), "addresses of kind 0x41"),
        (binary(kind=0x13), "addresses of kind 0x13"),
        (binary(kind=0x10), "addresses of kind 0x10"),
        (binary(INET[:-1]), "its addresses alone take 12"),
        (binary(INET, kind=0x21), "its addresses alone take 36"),
        (binary(INET, length=65535), f"of 65551 bytes; at most {MAX_V2_BYTES}"),
        (binary(INET + b"\x02"), "goes beyond its end"),
        (binary(INET + b"\x02\x00"), "goes beyond its end"),
        (binary(INET + b"\x02\x00\x02a"), "goes beyond its end"),
        (binary(INET + tlv(2, b"a") * 2), "two fields of the kind authority"),
        (binary(INET + tlv(2, b"")), "is no host name"),
        (binary(INET + tlv(2, b"a\nb")), "is no host name"),
        (binary(INET + tlv(2, b"\xff")), "is no host name"),
        (binary(INET + tlv(2, b"a" * 256)), "is no host name"),
        (binary(INET + tlv(5, b"a" * 129)), "a unique id of 129 bytes"),
        (binary(INET + tlv(3, b"abc")), "a CRC32c of 3 bytes"),
        (binary(INET + tlv(3, b"abcd")), "CRC32c is 61626364, and it should be"),
    ],
)
def test_what_is_no_header_is_refused(data, said):
    """With an error of ours that says what is wrong."""
    with pytest.raises(MalformedHeader, match=said) as caught:
        HeaderReader().push(data)
    assert isinstance(caught.value, HandshakeError)
    assert isinstance(caught.value, ValueError)


def test_the_first_wrong_byte_is_enough():
    """Nothing that cannot become a header is waited for."""
    reader = HeaderReader()
    assert reader.push(b"PROX") == 4
    with pytest.raises(MalformedHeader):
        reader.push(b"P")


def test_one_damaged_bit_is_noticed_by_the_checksum():
    """In whatever byte behind the command it is; a length that grew is waited for."""
    header = with_crc(INET + tlv(2, b"example.org"))
    for place in range(16, len(header)):
        damaged = bytearray(header)
        damaged[place] ^= 0x01
        with pytest.raises(MalformedHeader):
            HeaderReader().push(bytes(damaged))


headers = st.one_of(
    st.sampled_from([data for data, _ in TEXTS + BINARIES]),
    st.binary(max_size=300).map(lambda block: binary(INET + block)),
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.binary(max_size=300)).map(
        lambda fields: binary(fields[3], fields[1], fields[0], fields[2])
    ),
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=6).map(
        lambda fields: binary(INET + b"".join(tlv(*each) for each in fields))
    ),
    st.binary(max_size=200).map(lambda rest: b"PROXY " + rest),
    st.text("PROXYTC46UNKW 0123456789.:af\r\n", max_size=130).map(lambda text: b"PROXY TCP" + text.encode()),
    st.binary(max_size=300),
)


def push_in_pieces(data, sizes):
    """A reader that has been pushed ``data`` in pieces of these sizes, how many bytes it took, and what it raised."""
    reader, at = HeaderReader(), 0
    try:
        while reader.header is None and at < len(data):
            piece = data[at : at + min(next(sizes), reader.room)]
            taken = reader.push(piece)
            assert 0 < taken <= len(piece)
            assert taken == len(piece) or reader.header is not None
            at += taken
    except MalformedHeader as error:
        return reader, at, str(error)
    return reader, at, ""


@settings(max_examples=1000)
@given(data=st.data(), begins=headers, rest=st.binary(max_size=50))
def test_whatever_comes_is_read_or_refused(data, begins, rest):
    """Never another error, never more kept than the bound, and the same in any pieces."""
    stream = begins + rest
    whole, taken, said = push_in_pieces(stream, iter(lambda: 10_000, None))
    assert taken <= MAX_V2_BYTES
    sizes = iter(lambda: data.draw(st.integers(1, 40)), None)
    again, taken_again, said_again = push_in_pieces(stream, sizes)
    assert again.header == whole.header
    assert bool(said) == bool(said_again)
    if whole.header is not None:
        assert taken == taken_again


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=20))
def test_what_cannot_begin_a_header_is_known_by_its_first_bytes(data):
    """`begins_header` says of a beginning what the reader will say of it."""
    try:
        HeaderReader().push(data)
    except MalformedHeader as error:
        assert begins_header(data) != ("sent no PROXY header" in str(error))
    else:
        assert begins_header(data)


ipv4 = st.ip_addresses(v=4).map(str)
ports = st.integers(0, 65535)


@given(ipv4, ipv4, ports, ports)
def test_what_a_proxy_writes_is_what_is_read(source, destination, port, other):
    """In text and in binary alike."""
    text, _ = read(f"PROXY TCP4 {source} {destination} {port} {other}\r\n".encode())
    packed = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", port, other)
    data, _ = read(with_crc(packed))
    assert text.source == data.source == (source, port)
    assert text.destination == data.destination == (destination, other)
