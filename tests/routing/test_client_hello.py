"""The reader of TLS hellos: what it finds in real ones, and what it makes of everything else."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tricorn.client_hello import ClientHello, read_client_hello
from tricorn.errors import HandshakeError, MalformedHello


def spoken(server_name: str | None, protocols: list[str] = []) -> bytes:  # noqa: B006
    """What a real client sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(body, 2)


def server_names(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(b"".join(bytes([kind]) + vector(name, 2) for name in names), 2))


def offers(*protocols: bytes) -> bytes:
    return extension(16, vector(b"".join(vector(each, 1) for each in protocols), 2))


def message(extensions: bytes | None = b"", session: bytes = b"") -> bytes:
    """A hello as a handshake message."""
    body = b"\x03\x03" + bytes(32) + vector(session, 1) + vector(b"\x13\x01", 2) + vector(b"\0", 1)
    if extensions is not None:
        body += vector(extensions, 2)
    return b"\x01" + vector(body, 3)


def records(content: bytes, size: int = 16384) -> bytes:
    """The message cut into records of that many bytes."""
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"\x16\x03\x01" + vector(part, 2) for part in parts)


REAL = spoken("Example.org", ["h2", "http/1.1"])


def test_a_real_client_is_understood() -> None:
    """Its server name in small letters, and its protocols in its order."""
    assert read_client_hello(REAL) == ClientHello("example.org", ("h2", "http/1.1"))


def test_a_client_may_name_nothing() -> None:
    """Neither a server nor a protocol."""
    assert read_client_hello(spoken(None)) == ClientHello(None, ())
    assert read_client_hello(records(message(None))) == ClientHello(None, ())


def test_what_comes_behind_is_left_alone() -> None:
    """Early data, or anything."""
    assert read_client_hello(REAL + b"\x17\x03\x03\xff\xff and more") == read_client_hello(REAL)


def test_every_beginning_of_a_hello_asks_for_more() -> None:
    """Until it is whole; nothing is guessed."""
    assert [read_client_hello(REAL[:n]) for n in range(len(REAL))] == [None] * len(REAL)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 50, 100])
def test_a_hello_may_come_in_many_records(size: int) -> None:
    """RFC 8446 section 5.1; then, too, every beginning asks for more."""
    data = records(message(server_names(b"a.example") + offers(b"h2")), size)
    assert read_client_hello(data) == ClientHello("a.example", ("h2",))
    assert {read_client_hello(data[:n]) for n in range(len(data))} == {None}


def test_unknown_extensions_and_names_of_other_kinds_are_passed_over() -> None:
    """RFC 8701 makes sure that there are some."""
    grease = extension(0x0A0A, b"") + extension(0xFAFA, b"\0")
    assert read_client_hello(records(message(grease + server_names(b"x", kind=7)))) == ClientHello()
    assert read_client_hello(records(message(offers(b"\xfa\xfa", b"h2")))) == ClientHello(None, ("\xfa\xfa", "h2"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\n", "the first byte of a record is 71"),
        (b"\x80\x2e\x01\x03\x01", "the first byte of a record is 128"),
        (b"\x16\x02", r"version is 2\.x"),
        (b"\x16\x03\x01\x00\x00", "a record of 0 bytes; allowed: 1 to 16384"),
        (b"\x16\x03\x01\x40\x01", "a record of 16385 bytes"),
        (b"\x16\x03\x01\x00\x01\x02", "begins with message 2"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "a ClientHello of 16777219 bytes; at most 32768 are read"),
        (records(message(server_names(b"a", b"b"))), "two host names"),
        (records(message(server_names(b""))), "is no host name"),
        (records(message(server_names(b"a\nb"))), r"b'a\\nb' is no host name"),
        (records(message(server_names("\xe4.example".encode()))), "is no host name"),
        (records(message(server_names(b"a") + server_names(b"a"))), "extension 0 comes twice"),
        (records(message(offers())), "ALPN without a protocol"),
        (records(message(offers(b"h2", b""))), "or with an empty one"),
        (records(message(extension(16, vector(b"\x02h2", 2) + b"x"))), "1 bytes too many behind the protocols"),
        (records(message(extension(0, b"\x00\x09abc"))), "a field of 9 bytes, and 3 are left"),
        (records(b"\x01" + vector(message()[4:] + b"x", 3)), "1 bytes too many behind the extensions"),
        (records(b"\x01" + vector(b"\x03\x03", 3)), "a field of 34 bytes, and 2 are left"),
        (records(message(), 10)[:15] + b"\x17", "the first byte of a record is 23"),
    ],
)
def test_what_is_no_hello_is_told_so(data: bytes, said: str) -> None:
    """At once where the bytes that are there show it; with what is wrong."""
    with pytest.raises(MalformedHello, match=said):
        read_client_hello(data)


def test_the_error_is_what_one_would_catch() -> None:
    """A failed handshake, and a `ValueError`."""
    assert issubclass(MalformedHello, HandshakeError)
    assert issubclass(MalformedHello, ValueError)


@given(st.binary(max_size=300))
@example(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
def test_no_bytes_bring_it_down(data: bytes) -> None:
    """A hello, a wish for more, or its own error."""
    for tried in (data, records(data), records(b"\x01" + vector(data, 3)), records(message(data)), b"\x16\x03" + data):
        try:
            found = read_client_hello(tried)
        except MalformedHello:
            continue
        assert found is None or isinstance(found, ClientHello)


@given(st.data())
def test_a_damaged_hello_does_not_either(data: st.DataObject) -> None:
    """One that was real before some of its bytes changed, and its end was cut off."""
    damaged = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(REAL) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_client_hello(bytes(damaged[: data.draw(st.integers(0, len(REAL)))]))
    except MalformedHello:
        return
    assert found is None or isinstance(found, ClientHello)


hosts = st.text(st.sampled_from("abcxyz019.-"), min_size=1, max_size=100)
names = st.text(st.characters(max_codepoint=255), min_size=1, max_size=50)


@given(hosts | st.none(), st.lists(names, max_size=5), st.integers(1, 400), st.binary(max_size=32))
def test_what_is_said_is_what_is_read(host: str | None, protocols: list[str], size: int, session: bytes) -> None:
    """For every hello, cut into records at every length."""
    said = b"" if host is None else server_names(host.encode())
    if protocols:
        said += offers(*(each.encode("latin-1") for each in protocols))
    hello = read_client_hello(records(message(said, session), size))
    assert hello == ClientHello(host, tuple(protocols))
