"""Who is at the other end: authenticators, which run after a connection is open and before its handler.

An authenticator is a callable that takes one open `~tricorn.connection.Connection` and returns who the peer is,
whatever that is to the program; the handler finds it as ``connection.identity``.  To turn the peer away it raises
`~tricorn.errors.AuthenticationError` or returns ``None``.  ::

    def by_address(connection):
        return connection.peer[0] if connection.peer[0] in KNOWN else None

    Server(TLS(TCP(), certfile="server.pem"), ThreadPool(), handler, authenticate=by_address)

It is called on the worker, in several at once, and may block: ``Server(authenticate_timeout=...)`` bounds it.  Two
attributes, each of which may be missing, tell a server what it needs:

``converses``
    True if it receives from the peer or sends to it.  Event loops do not run such a one.
``needs``
    What its connections must have in the way of proof, one of `~tricorn.contracts.Transport.attests`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from tricorn.checks import refuse_option
from tricorn.deadline import Deadline
from tricorn.errors import AuthenticationError, ConfigurationError, ConnectionLost, HandshakeTimeout

if TYPE_CHECKING:
    from attrs import Attribute

    from tricorn.connection import Connection, Credentials

__all__ = ["CertifiedPeer", "ClientCertificate", "PeerCredentials", "SharedSecret", "answer_challenge", "identify"]


def identify(request: Any, authenticate: Callable[[Any], object], timeout: float) -> None:
    """Ask ``authenticate`` who the peer of ``request`` is, and note it there; all within ``timeout`` seconds.

    Meanwhile ``request.deadline`` is the moment at which that time is over, and each single call on a blocking socket
    gets what was left of it at the beginning.  Raises what the authenticator raises; `AuthenticationError` where it
    returns ``None``, and `~tricorn.errors.HandshakeTimeout` where it took longer.
    """
    outer, request.deadline = request.deadline, Deadline.after(timeout)
    sock = request.socket
    patience = sock.gettimeout()
    if patience != 0:  # an event loop's does not block, and stays so
        sock.settimeout(timeout)
    try:
        identity = authenticate(request)
        if request.deadline.expired:
            sock.fault = HandshakeTimeout(f"the authentication was not over after {timeout:g} s")
            raise sock.fault
    finally:
        request.deadline = outer
        if patience != 0 and request.socket is sock:
            sock.settimeout(patience)
    if identity is None:
        raise AuthenticationError("the authenticator does not know this peer")
    request.identity = identity


# -- the kernel's word


def _numbers(given: Iterable[int] | None) -> Any:
    return frozenset(given) if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) else given


def _ids(owner: object, option: Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, frozenset) and all(type(each) is int for each in value)):
        refuse_option(owner, option.name, value, "numbers of users or groups, such as {1000}, or None")


@frozen
class PeerCredentials:
    """Lets in processes of certain users over a Unix socket, as the kernel attests them: unix(7), SO_PEERCRED.

    ``uids``, ``gids``: numbers of the users and groups that may come in; one of either is enough.  A process's group is
    its effective one when it connected; its supplementary groups are not told.  Without both: the user that this
    server runs as.  The identity is a `~tricorn.connection.Credentials`.
    """

    converses: ClassVar[bool] = False
    needs: ClassVar[str] = "credentials"

    uids: frozenset[int] | None = field(default=None, converter=_numbers, validator=_ids)
    gids: frozenset[int] | None = field(default=None, converter=_numbers, validator=_ids)

    def __call__(self, connection: Connection) -> Credentials:
        """Raises `AuthenticationError` with the peer's numbers."""
        found = connection.credentials
        if found is None:
            raise AuthenticationError("the kernel attests nothing on this connection: it is no Unix socket")
        uids = frozenset({os.geteuid()}) if self.uids is None and self.gids is None else self.uids or frozenset()
        if found.uid in uids or found.gid in (self.gids or ()):
            return found
        raise AuthenticationError(f"process {found.pid} of user {found.uid}, group {found.gid} may not come in")


# -- a certificate


def _listed(names: object) -> tuple[str, ...]:
    several = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else (names,)
    for name in several:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"ClientCertificate(names={names!r}): names must be texts such as 'DNS:*.example'")
    return tuple(name if ":" in name else f"DNS:{name}" for name in several)


@frozen
class CertifiedPeer:
    """What a verified certificate says of its owner.

    ``subject``: the attributes of its name, such as ``{"commonName": "alice"}``.  ``names``: its subject alternative
    names, with their types: ``("DNS:alice.example", "email:alice@example")``.  ``serial`` is hexadecimal.
    """

    subject: Mapping[str, str]
    names: tuple[str, ...]
    serial: str


@frozen
class ClientCertificate:
    """Lets in peers whose certificate, which TLS has verified, has one of certain names.  RFC 5280 section 4.2.1.6.

    ``names``: subject alternative names, one of which it must have: ``"DNS:*.example"``, ``"email:alice@example"``,
    ``"URI:spiffe://example/a"``, ``"IP Address:192.0.2.1"``; without a type it is ``DNS:``.  ``*.`` in front of a DNS
    name stands for one label.  ``subject``: attributes that its subject must have, all of them:
    ``{"organizationName": "Acme"}``, by the names of `ssl.SSLSocket.getpeercert`.  What is not given is not asked for;
    without both any verified certificate will do.  The identity is a `CertifiedPeer`.
    """

    converses: ClassVar[bool] = False
    needs: ClassVar[str] = "certificate"

    names: tuple[str, ...] = field(default=(), converter=_listed)
    subject: Mapping[str, str] = field(factory=dict, hash=False)

    def __call__(self, connection: Connection) -> CertifiedPeer:
        """Raises `AuthenticationError` with what the certificate says."""
        found = connection.certificate
        if not found:
            raise AuthenticationError("the peer has shown no certificate")
        peer = certified_peer(found)
        if self.names and not any(_matches(wanted, name) for wanted in self.names for name in peer.names):
            raise AuthenticationError(f"the peer's certificate is for {_shown(peer)}; wanted: {', '.join(self.names)}")
        for attribute, wanted in self.subject.items():
            if peer.subject.get(attribute) != wanted:
                raise AuthenticationError(f"the peer's certificate is for {_shown(peer)}; wanted: {attribute}={wanted}")
        return peer


def certified_peer(certificate: Mapping[str, Any]) -> CertifiedPeer:
    """From the form of `ssl.SSLSocket.getpeercert`."""
    subject = {name: value for part in certificate.get("subject", ()) for name, value in part}
    names = tuple(f"{kind}:{value}" for kind, value in certificate.get("subjectAltName", ()))
    return CertifiedPeer(subject, names, certificate.get("serialNumber", ""))


def _matches(wanted: str, name: str) -> bool:
    """DNS names without regard to case, and one label for ``*``: RFC 6125 section 6.4.  All else as it stands."""
    kind, _, value = wanted.partition(":")
    if kind != "DNS" or not name.startswith("DNS:"):
        return wanted == name
    value, found = value.lower(), name[4:].lower()
    return found.partition(".")[1:] == (".", value[2:]) if value.startswith("*.") else found == value


def _shown(peer: CertifiedPeer) -> str:
    return ", ".join([*(f"{name}={value}" for name, value in peer.subject.items()), *peer.names]) or "nobody"


# -- a secret

#: Begins a challenge, so that nobody takes it for something else.
_MAGIC = b"tricorn1"
_NONCE_BYTES = 32
_DIGEST_BYTES = 32
#: The shortest secret: 128 bits.
MIN_SECRET_BYTES = 16
_MAX_NAME_BYTES = 255
_WELCOME = b"\x01"


def _secrets(given: object) -> Any:
    return {"": given} if isinstance(given, (bytes, bytearray)) else given


@define(eq=False)
class SharedSecret:
    """Lets in peers that know a secret, without its ever being sent: a challenge and a response by HMAC-SHA256.

    ``secrets``: a name and its secret for each peer, or one secret for all, whose name is then ``""``; 16 random bytes
    or more each.  The identity is the name.  A peer uses `answer_challenge`, or these steps::

        server   "tricorn1", 32 random bytes (the nonce, new for each connection)
        peer     1 byte: the length n of its name; the n bytes of the name in UTF-8; 32 bytes:
                 HMAC-SHA256(secret, "tricorn1 peer" + nonce + name)
        server   1 byte, 0x01; or the end, for a name or digest that is not right, without saying which

    The digests are compared in constant time (`hmac.compare_digest`), and an unknown name takes as long as a known one.
    At most 288 bytes are read, and nothing of what follows them; all in ``authenticate_timeout``.  It shows who began
    the conversation, and does not protect the rest of it: that is what TLS, or a Unix socket, is for.  RFC 2104.
    """

    converses: ClassVar[bool] = True

    secrets: Mapping[str, bytes] = field(converter=_secrets, repr=False)
    _nobody: bytes = field(factory=lambda: os.urandom(_DIGEST_BYTES), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.secrets, Mapping) or not self.secrets:
            raise ConfigurationError("SharedSecret: secrets must be bytes, or a mapping of names to bytes")
        for name, secret in self.secrets.items():
            if not isinstance(name, str) or len(name.encode()) > _MAX_NAME_BYTES:
                raise ConfigurationError(f"SharedSecret: name {name!r} is no text of at most {_MAX_NAME_BYTES} bytes")
            if not isinstance(secret, (bytes, bytearray)) or len(secret) < MIN_SECRET_BYTES:
                raise ConfigurationError(
                    f"SharedSecret: the secret of {name!r} must be {MIN_SECRET_BYTES} bytes or more"
                )

    def __call__(self, connection: Connection) -> str:
        """Raises `AuthenticationError` for a wrong answer, `TimeoutError` for a silent peer, `ConnectionLost`."""
        import hmac

        nonce = os.urandom(_NONCE_BYTES)
        connection.send(_MAGIC + nonce)
        (length,) = _receive(connection, 1)
        answer = _receive(connection, length + _DIGEST_BYTES)
        name, digest = answer[:length], answer[length:]
        known = self.secrets.get(name.decode("utf-8", "backslashreplace"))
        right = hmac.compare_digest(digest, _digest(known or self._nobody, nonce, name))
        if known is None or not right:
            raise AuthenticationError(f"the answer of {name.decode('utf-8', 'backslashreplace')!r} is not right")
        connection.send(_WELCOME)
        return name.decode("utf-8")


def answer_challenge(sock: Any, secret: bytes, name: str = "") -> None:
    """The peer's side of `SharedSecret`, on a connected socket (an `ssl.SSLSocket` too); its own timeout applies.

    Raises `AuthenticationError` if the other side turns us away, or asks for something else.
    """
    challenge = _exactly(sock, len(_MAGIC) + _NONCE_BYTES)
    if not challenge.startswith(_MAGIC) or len(challenge) < len(_MAGIC) + _NONCE_BYTES:
        raise AuthenticationError(f"the other side asks for no secret; it sent {challenge[:20]!r}")
    known_as = name.encode()
    sock.sendall(bytes([len(known_as)]) + known_as + _digest(secret, challenge[len(_MAGIC) :], known_as))
    if _exactly(sock, 1) != _WELCOME:
        raise AuthenticationError(f"the other side does not accept the secret of {name!r}")


def _digest(secret: bytes, nonce: bytes, name: bytes) -> bytes:
    import hmac

    return hmac.digest(secret, _MAGIC + b" peer" + nonce + name, "sha256")


def _exactly(sock: Any, size: int) -> bytes:
    """``size`` bytes, or what there is before the end."""
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def _receive(connection: Connection, size: int) -> bytes:
    """``size`` bytes before the deadline, however slowly they come."""
    sock, data = connection.socket, b""
    while len(data) < size:
        left = None if connection.deadline is None else connection.deadline.remaining()
        if left is not None:
            sock.settimeout(max(left, 0.001))
        more = sock.recv(size - len(data))
        if not more:
            sock.fault = ConnectionLost("the peer left without an answer")
            raise sock.fault
        data += more
    return data
