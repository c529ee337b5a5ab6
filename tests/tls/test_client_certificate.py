"""`ClientCertificate`: who may come in by what a verified certificate says."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from tricorn import ConfigurationError, Status
from tricorn.authentication import CertifiedPeer, ClientCertificate, SharedSecret, answer_challenge
from tricorn.errors import AuthenticationError
from tricorn.events import JobFinished
from tricorn.strategies import Thread
from tricorn.transports import UnixStream


def tell(connection: Any) -> None:
    connection.send(",".join(connection.identity.names).encode())


def asked(authority: Any, **options: Any) -> Any:
    return authority.tls(client_certificates="required", client_ca=authority.file, **options)


def client_of(authority: Any, *names: str, **options: Any) -> ssl.SSLContext:
    context: ssl.SSLContext = authority.client()
    authority.ca.issue_cert(*names, **options).configure_cert(context)
    return context


def test_a_certificate_is_an_identity(authority: Any, dispatcher: Any, serve: Any, call: Any) -> None:
    """With subject, names and serial number, wherever the handler runs."""

    def handler(connection: Any) -> None:
        peer = connection.identity
        assert isinstance(peer, CertifiedPeer)
        assert int(peer.serial, 16)
        connection.send(f"{peer.subject['commonName']} {peer.names[0]}".encode())

    server = serve(asked(authority), dispatcher, handler, authenticate=ClientCertificate())
    client = call(server, client_of(authority, "a.example", common_name="alice"))
    assert client.recv(100) == b"alice DNS:a.example"


@pytest.mark.parametrize(
    ("wanted", "name", "well"),
    [
        ({"names": ["a.example"]}, "a.example", True),
        ({"names": "A.example"}, "a.EXAMPLE", True),
        ({"names": ["b.example", "DNS:a.example"]}, "a.example", True),
        ({"names": ["*.example"]}, "a.example", True),
        ({"names": ["*.example"]}, "a.b.example", False),
        ({"names": ["*.example"]}, "example", False),
        ({"names": ["a.example"]}, "b.example", False),
        ({"names": ["email:me@a.example"]}, "me@a.example", True),
        ({"names": ["me@a.example"]}, "me@a.example", False),
        ({"names": ["IP Address:192.0.2.1"]}, "192.0.2.1", True),
        ({"subject": {"organizationName": "Acme"}}, "a.example", True),
        ({"subject": {"organizationName": "Ajax"}}, "a.example", False),
        ({"subject": {"organizationName": "Acme"}, "names": ["b.example"]}, "a.example", False),
        ({"subject": {"localityName": "x"}}, "a.example", False),
    ],
)
def test_which_certificates_may_come_in(
    wanted: Any, name: str, well: bool, authority: Any, serve: Any, call: Any, recorder: Any
) -> None:
    """One of the names, and all of the subject."""
    server = serve(asked(authority), Thread(), tell, authenticate=ClientCertificate(**wanted))
    client = call(server, client_of(authority, name, organization_name="Acme", common_name="x"))
    assert bool(client.recv(100)) is well
    outcome = recorder.wait(JobFinished)[0].outcome
    assert outcome.status is (Status.COMPLETED if well else Status.REFUSED)
    if not well:
        assert "the peer's certificate is for" in str(outcome.error)
        assert "wanted: " in str(outcome.error)


def test_none_at_all_is_turned_away(authority: Any, serve: Any, call: Any, recorder: Any) -> None:
    """Where TLS leaves it open, the authenticator does not."""
    transport = authority.tls(client_certificates="optional", client_ca=authority.file)
    server = serve(transport, Thread(), tell, authenticate=ClientCertificate())
    assert call(server).recv(1) == b""
    error = recorder.wait(JobFinished)[0].outcome.error
    assert isinstance(error, AuthenticationError)
    assert "no certificate" in str(error)


def test_a_name_is_a_text() -> None:
    """Checked when it is built."""
    for names in ([3], [""], 3):
        with pytest.raises(ConfigurationError, match="names must be texts"):
            ClientCertificate(names=names)  # type: ignore[arg-type]


def test_other_authenticators_work_over_tls_too(authority: Any, serve: Any, call: Any, tmp_path: Any) -> None:
    """A secret inside the encryption, and the kernel's word below it."""
    from tricorn.authentication import PeerCredentials

    def identity(connection: Any) -> None:
        connection.send(repr(connection.identity).encode())

    server = serve(authority.tls(), Thread(), identity, authenticate=SharedSecret({"me": b"x" * 16}))
    client = call(server)
    answer_challenge(client, b"x" * 16, "me")
    assert client.recv(10) == b"'me'"
    path = tmp_path / "s"
    server = serve(authority.tls(UnixStream(path)), Thread(), identity, authenticate=PeerCredentials())
    assert call(server).recv(100).startswith(b"Credentials(pid=")
