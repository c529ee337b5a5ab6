"""What TLS is made of: values that cannot work, files that cannot be used, names and texts."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tricorn import ConfigurationError, IncompatibleParts, ListenError, Server
from tricorn.certificates import validity
from tricorn.names import transport
from tricorn.strategies import Sync
from tricorn.transports import TCP, TLS, UDP, Memory, UnixStream

PAST = datetime(2001, 1, 1, tzinfo=UTC)


def listen(value: TLS) -> None:
    for listener in value.listen():
        listener.close()


def answer(connection: Any) -> None:
    connection.send(b"x")


def test_building_opens_nothing() -> None:
    """A value, equal to its like, hashable, and silent about its password; the files need not exist yet."""
    options: dict[str, Any] = {"certfile": "/no/such.pem", "sni": {"a.example": "/no/other.pem"}, "alpn": ["h2"]}
    one, other = TLS(TCP(port=1), **options, password="hunter2"), TLS(TCP(port=1), **options, password="hunter2")
    assert one == other
    assert hash(one) == hash(other)
    assert "hunter2" not in repr(one)
    assert one != TLS(TCP(port=2), **options)


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (
            Memory(),
            "TLS encrypts what goes through a descriptor, and connections of Memory have none; use it around TCP",
        ),
        (UDP(), "TLS wraps connections, and UDP yields datagram requests; use it around TCP or UnixStream"),
        (TCP(urgent="deliver"), "TLS reads past what TCP\\(urgent='deliver'\\) does"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_a_sentence(inner: Any, said: str) -> None:
    """When the value is built."""
    with pytest.raises(IncompatibleParts, match=said):
        TLS(inner, certfile="x.pem")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"certfile": None}, r"TLS\(certfile=None\): certfile must be the path"),
        ({"certfile": ""}, r"TLS\(certfile=''\)"),
        ({"keyfile": 3}, r"TLS\(keyfile=3\)"),
        ({"alpn": [""]}, r"alpn must be names of 1 to 255"),
        ({"alpn": ["ä"]}, r"alpn must be"),
        ({"alpn": 3}, r"alpn must be"),
        ({"sni": ["a"]}, r"sni must be a mapping"),
        ({"sni": {"a": ()}}, r"sni must be a mapping"),
        ({"sni": {"a": ("b", "c", "d")}}, r"sni must be a mapping"),
        ({"sni": {3: "a"}}, r"sni must be a mapping"),
        ({"password": 3}, r"password must be text"),
        ({"client_certificates": "perhaps"}, r"must be 'none' or 'optional' or 'required'"),
        ({"client_certificates": "required"}, r"client_ca must say who signs"),
        ({"client_ca": "x.pem"}, r"client_certificates must be 'optional' or 'required'"),
        ({"minimum_version": "1.1"}, r"must be '1.2' or '1.3'"),
        ({"handshake_timeout": 0}, r"must be seconds, above 0"),
        ({"handshake_timeout": None}, r"never unlimited"),
        ({"handshake_timeout": True}, r"must be seconds"),
        ({"allow_expired": 1}, r"must be True or False"),
    ],
)
def test_a_value_that_cannot_work_is_refused(options: Any, said: str) -> None:
    """With the option, what it is, and what is allowed."""
    with pytest.raises(ConfigurationError, match=said):
        TLS(TCP(), **{"certfile": "x.pem", **options})
    with pytest.raises(ConfigurationError, match="a transport, such as"):
        TLS("tcp://127.0.0.1:1", certfile="x.pem")  # type: ignore[arg-type]


# -- files


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def test_a_key_of_another_certificate_is_refused(authority: Any) -> None:
    """Whether of the same type or another."""
    _, other = authority.issue("other.example")
    with pytest.raises(ConfigurationError) as caught:
        listen(authority.tls(keyfile=other))
    assert str(caught.value) == (
        f"the private key in '{other}' does not belong to the certificate in '{authority.certfile}'"
    )


def test_an_expired_certificate_is_refused(authority: Any, serve: Any, call: Any) -> None:
    """And one that is not valid yet; unless that is wanted."""
    certfile, keyfile = authority.issue("localhost", not_before=PAST, not_after=datetime(2001, 2, 3, tzinfo=UTC))
    with pytest.raises(ConfigurationError) as caught:
        listen(authority.tls(certfile=certfile, keyfile=keyfile))
    assert f"certificate 1 in certfile '{certfile}' expired on 2001-02-03 00:00 UTC" in str(caught.value)
    assert "allow_expired" in str(caught.value)
    server = serve(authority.tls(certfile=certfile, keyfile=keyfile, allow_expired=True), Sync(), answer)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        call(server)
    early = datetime.now(UTC) + timedelta(days=3)
    certfile, keyfile = authority.issue("localhost", not_before=early, not_after=early + timedelta(days=9))
    with pytest.raises(ConfigurationError, match=f"is not valid before {early:%Y-%m-%d}"):
        listen(authority.tls(certfile=certfile, keyfile=keyfile))


def test_a_file_that_is_not_there_is_named(authority: Any, tmp_path: Path) -> None:
    """With the option that named it, before anything is bound."""
    missing = str(tmp_path / "missing.pem")
    for option in ("certfile", "keyfile"):
        with pytest.raises(ConfigurationError) as caught:
            listen(authority.tls(**{option: missing}))
        assert str(caught.value) == f"{option} '{missing}' cannot be read: No such file or directory"
    with pytest.raises(ConfigurationError, match=f"client_ca '{missing}' cannot be read"):
        listen(authority.tls(client_ca=missing, client_certificates="required"))
    with pytest.raises(ConfigurationError, match="Is a directory"):
        listen(authority.tls(certfile=str(tmp_path)))
    with pytest.raises(ConfigurationError, match="is no path"):
        listen(authority.tls(certfile="a\0b"))


def test_a_file_that_may_not_be_read_is_named(authority: Any, monkeypatch: Any) -> None:
    """With the reason that the kernel gave; a stand-in gives it, since root may read everything."""
    import builtins

    real = builtins.open

    def forbidding(path: Any, *args: Any, **options: Any) -> Any:
        if path == authority.keyfile:
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(builtins, "open", forbidding)
    with pytest.raises(ConfigurationError) as caught:
        listen(authority.tls())
    assert str(caught.value) == f"keyfile '{authority.keyfile}' cannot be read: Permission denied"


def test_a_file_that_holds_something_else_is_named(authority: Any, tmp_path: Path) -> None:
    """Swapped, cut off, or damaged."""
    with pytest.raises(ConfigurationError, match="holds no certificate in PEM"):
        listen(authority.tls(certfile=authority.keyfile))
    with pytest.raises(ConfigurationError, match="holds no private key in PEM"):
        listen(authority.tls(keyfile=authority.certfile))
    with pytest.raises(ConfigurationError, match="without keyfile the key has to be in the same file"):
        listen(authority.tls(keyfile=None))
    damaged = tmp_path / "damaged.pem"
    lines = Path(authority.certfile).read_text().splitlines()
    damaged.write_text("\n".join([*lines[:3], *lines[5:]]))
    with pytest.raises(ConfigurationError, match="one is damaged"):
        listen(authority.tls(certfile=str(damaged)))
    damaged.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigurationError, match="client_ca .* cannot be used"):
        listen(authority.tls(client_ca=str(damaged), client_certificates="required"))


def test_certificate_and_key_in_one_file(authority: Any, serve: Any, call: Any, tmp_path: Path) -> None:
    """Without keyfile."""
    both = tmp_path / "both.pem"
    both.write_text(Path(authority.certfile).read_text() + Path(authority.keyfile).read_text())
    assert call(serve(authority.tls(certfile=both, keyfile=None), Sync(), answer)).recv(1) == b"x"


def test_an_encrypted_key(authority: Any, serve: Any, call: Any, tmp_path: Path) -> None:
    """Needs its password, as text, bytes or from a function; nobody is asked on the terminal."""
    locked = str(tmp_path / "locked.pem")
    openssl("pkey", "-aes256", "-passout", "pass:hunter2", "-in", authority.keyfile, "-out", locked)
    passwords: list[Any] = ["hunter2", b"hunter2", lambda: "hunter2"]
    for password in passwords:
        server = serve(authority.tls(keyfile=locked, password=password), Sync(), answer)
        assert call(server).recv(1) == b"x"
    with pytest.raises(ConfigurationError, match="it is encrypted, and no password was given"):
        listen(authority.tls(keyfile=locked))
    with pytest.raises(ConfigurationError, match="the password is wrong") as caught:
        listen(authority.tls(keyfile=locked, password="guess"))
    assert "guess" not in str(caught.value)


def test_a_key_that_is_too_weak_is_told(authority: Any, tmp_path: Path) -> None:
    """By OpenSSL's own security level."""
    certfile, keyfile = str(tmp_path / "weak.pem"), str(tmp_path / "weak.key")
    openssl("req", "-x509", "-newkey", "rsa:512", "-nodes", "-subj", "/CN=x", "-keyout", keyfile, "-out", certfile)
    with pytest.raises(ConfigurationError, match="too weak"):
        listen(authority.tls(certfile=certfile, keyfile=keyfile))


def test_ciphers(authority: Any, serve: Any, call: Any) -> None:
    """For TLS 1.2; unknown ones are refused."""
    with pytest.raises(ConfigurationError, match="OpenSSL knows none of them"):
        listen(authority.tls(ciphers="ROT13"))
    server = serve(authority.tls(ciphers="ECDHE-ECDSA-AES256-GCM-SHA384"), Sync(), answer)
    client = call(server, authority.client(maximum_version=ssl.TLSVersion.TLSv1_2))
    assert client.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


def test_nothing_stays_open_where_it_cannot_listen(authority: Any, dial: Any, tmp_path: Path) -> None:
    """The error of the transport below comes out as it is."""
    (listener,) = authority.tls().listen()
    with pytest.raises(ListenError, match="in use"):
        authority.tls(TCP(port=listener.address[1])).listen()
    listener.close()
    path = tmp_path / "s"
    with pytest.raises(ConfigurationError):
        authority.tls(UnixStream(path), certfile="/no/such.pem").listen()
    assert not path.exists()
    server = Server(authority.tls(certfile="/no/such.pem"), Sync(), answer)
    with pytest.raises(ConfigurationError, match=r"/no/such\.pem"):
        server.bind()


# -- several certificates


def test_the_certificate_is_chosen_by_name(authority: Any, serve: Any, call: Any) -> None:
    """By the whole name first, then with a star for its first label, and else the one of the server."""
    one, star = authority.issue("one.example"), authority.issue("*.two.example")
    exact = authority.issue("exact.two.example")
    sni = {"ONE.example": one, "*.two.example": star, "exact.two.example": exact}
    server = serve(authority.tls(sni=sni, alpn=("h2",)), Sync(), answer)

    def shown(name: str) -> list[str]:
        context = authority.client(check_hostname=False)
        context.set_alpn_protocols(["h2"])
        client = call(server, context, name)
        assert client.selected_alpn_protocol() == "h2"
        return [value for _, value in client.getpeercert()["subjectAltName"]]

    assert shown("one.example") == ["one.example"]
    assert shown("a.two.example") == ["*.two.example"]
    assert shown("exact.two.example") == ["exact.two.example"]
    for other in ("localhost", "b.a.two.example", "two.example", "one.example.org"):
        assert shown(other) == ["localhost", "127.0.0.1"]


def test_a_certificate_of_a_name_must_be_good_too(authority: Any) -> None:
    """It is loaded, and refused, with the others."""
    with pytest.raises(ConfigurationError, match="certfile 'gone.pem' cannot be read"):
        listen(authority.tls(sni={"a.example": "gone.pem"}))


# -- by name


def test_by_name(authority: Any) -> None:
    """Options of TLS and of the transport inside stand in one query."""
    text = "tls+tcp://127.0.0.1:8443?certfile=c.pem&keyfile=k.pem&backlog=5&alpn=h2,http/1.1&handshake_timeout=2.5"
    assert transport(text) == TLS(
        TCP("127.0.0.1", 8443, backlog=5),
        certfile="c.pem",
        keyfile="k.pem",
        alpn=("h2", "http/1.1"),
        handshake_timeout=2.5,
    )
    text = "tls+unix:/run/app.sock?certfile=c.pem&mode=0o660&client_certificates=required&client_ca=ca.pem"
    assert transport(text) == TLS(
        UnixStream("/run/app.sock", mode=0o660), certfile="c.pem", client_certificates="required", client_ca="ca.pem"
    )
    text = "tls+tcp://h:1?certfile=c.pem&sni=a.example:a.pem:a.key,b.example:b.pem&password=x"
    assert transport(text) == TLS(
        TCP("h", 1), certfile="c.pem", sni={"a.example": ("a.pem", "a.key"), "b.example": "b.pem"}, password="x"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tls+tcp://127.0.0.1:1", "wrapper 'tls' needs option 'certfile'"),
        ("tls+tcp://127.0.0.1:1?certfile=c&cerfile=c", "has no option 'cerfile'; .*did you mean 'certfile'"),
        ("tls+tcp://127.0.0.1:1?certfile=c&minimum_version=1.0", "is '1.0'; allowed: one of 1.2, 1.3"),
        ("tls+tcp://127.0.0.1:1?certfile=c&sni=x", "allowed: name:certfile:keyfile"),
        ("tls+udp://127.0.0.1:1?certfile=c", "TLS wraps connections, and UDP"),
        ("tls+memory:?certfile=c", "connections of Memory have none"),
        ("tls+tls+tcp://127.0.0.1:1?certfile=c", "has 'tls' twice"),
    ],
)
def test_a_text_that_is_wrong_says_so(text: str, said: str) -> None:
    """Before anything is opened."""
    with pytest.raises(ConfigurationError, match=said):
        transport(text)


# -- dates


def der(begins: bytes, ends: bytes) -> bytes:
    """As much of a certificate as is looked at."""

    def element(tag: int, *parts: bytes) -> bytes:
        content = b"".join(parts)
        length = bytes([len(content)]) if len(content) < 128 else b"\x82" + len(content).to_bytes(2, "big")
        return bytes([tag]) + length + content

    def time(text: bytes) -> bytes:
        return element(0x17 if len(text) == 13 else 0x18, text)

    validity = element(0x30, time(begins), time(ends))
    rest = element(0x04, b"x" * 200)
    version = element(0xA0, element(2, b"\x02"))
    tbs = element(0x30, version, element(2, b"\x01"), element(0x30), element(0x30), validity, rest)
    return element(0x30, tbs)


def test_both_forms_of_dates() -> None:
    """Two digits for the year mean 1950 to 2049, RFC 5280 section 4.1.2.5.1; four mean what they say."""
    found = validity(der(b"500102030405Z", b"491231235959Z"))
    assert [each.isoformat() for each in found] == ["1950-01-02T03:04:05+00:00", "2049-12-31T23:59:59+00:00"]
    assert validity(der(b"20500101000000Z", b"99991231235959Z"))[1].year == 9999
    whole = der(b"500102030405Z", b"491231235959Z")
    for cut in range(len(whole)):
        with pytest.raises((ValueError, IndexError)):
            validity(whole[:cut])
