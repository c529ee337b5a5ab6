"""TLS around any transport that yields connections."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import define, field, frozen

from tricorn.certificates import KeyPair, Password, load_authorities, load_pair
from tricorn.checks import flag, refuse_option
from tricorn.connection import Connection
from tricorn.contracts import Kind, Listener, Request, Transport
from tricorn.errors import ConfigurationError, IncompatibleParts
from tricorn.handover import restorable
from tricorn.tls_connection import TLSConnection, note_server_name
from tricorn.tls_context import LiveContext
from tricorn.tls_socket import TLSSocket

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["TLS", "TLSListener"]

#: The longest handshake that can be asked for, in seconds.
MAX_HANDSHAKE_S = 3600.0
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT_CERTIFICATES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def _path_or_none(given: Any) -> Any:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _protocols(given: Any) -> Any:
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else given


def _named_pairs(given: Any) -> Any:
    """``{"name": (certfile, keyfile)}``, or ``{"name": certfile}``, as something that can be hashed."""
    if not isinstance(given, Mapping):
        return given
    pairs = []
    for name, files in given.items():
        several = (files,) if isinstance(files, (str, os.PathLike)) else tuple(files)
        pairs.append((name.lower() if isinstance(name, str) else name, *map(_path_or_none, several)))
    return tuple(pairs)


def _read_sni(text: str) -> dict[str, tuple[str, ...]]:
    """``name:certfile:keyfile``, several with commas between them."""
    pairs = [entry.split(":") for entry in text.split(",")]
    if not all(len(pair) in (2, 3) for pair in pairs):
        raise ValueError(text)
    return {name: tuple(files) for name, *files in pairs}


def _stream_with_descriptors(owner: object, option: Attribute[Any], inner: object) -> None:
    if not isinstance(inner, Transport):
        refuse_option(owner, option.name, inner, "a transport, such as TCP('127.0.0.1', 8443)")
    name = type(inner).__name__
    if inner.kind is not Kind.STREAM:
        raise IncompatibleParts(
            f"TLS wraps connections, and {name} yields {inner.kind.value} requests; use it around TCP or UnixStream"
        )
    if inner.in_process:
        raise IncompatibleParts(
            f"TLS encrypts what goes through a descriptor, and connections of {name} have none; "
            "use it around TCP or UnixStream"
        )

    if getattr(inner, "urgent", "ignore") != "ignore":
        raise IncompatibleParts(
            f"TLS reads past what {name}(urgent={getattr(inner, 'urgent', None)!r}) does with urgent bytes, and nobody "
            "could trust one that stands outside the encryption; use urgent='ignore'"
        )


def _path(owner: object, option: Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value:
        refuse_option(owner, option.name, value, "the path of a PEM file")


def _path_if_given(owner: object, option: Attribute[Any], value: object) -> None:
    if value is not None:
        _path(owner, option, value)


@frozen
class TLS(Transport):
    """TLS 1.2 and 1.3 around another transport: ``TLS(TCP("0.0.0.0", 8443), certfile="server.pem")``.

    ``inner``: the transport below, any that yields connections with a descriptor.
    ``certfile``: PEM file with the server's certificate, and after it those that signed it, without the root.
    ``keyfile``: PEM file with its private key; ``None``: in ``certfile`` too.
    ``password``: opens an encrypted key; text, bytes, or a function that is asked whenever the key is loaded.
    ``sni``: further certificates by the name that the peer asks for (RFC 6066 section 3), which it gets instead of the
    one above: ``{"example.org": (certfile, keyfile), "*.example.net": (certfile, keyfile)}``; ``*`` stands for one
    label.  ``password`` opens their keys too.
    ``alpn``: protocols that we speak, the best first (RFC 7301), such as ``("h2", "http/1.1")``.  A peer that offers
    none of them is served, with `~tricorn.connection.Connection.alpn` ``None``.
    ``client_certificates``: ``"none"``, ``"optional"`` or ``"required"``: whether the peer is asked for a certificate,
    and whether it may come in without.  One that it shows must be good.
    ``client_ca``: PEM file, or folder made by ``openssl rehash``, with the authorities that sign peers' certificates.
    ``minimum_version``: ``"1.2"`` or ``"1.3"``.  ``ciphers``: for TLS 1.2, as ``openssl ciphers`` has them; ``None``
    leaves them to `ssl`.
    ``handshake_timeout``: seconds that a peer gets for the handshake; 10 by default, as long as a patient client waits.
    ``allow_expired``: serve certificates that are not valid yet, or no longer.

    The files are read by `listen`, and again by `TLSListener.reload`; a value that was built has opened nothing.  The
    handshake is made on the worker, so that a silent peer holds up nobody but itself.  Raises
    `~tricorn.errors.ConfigurationError` for a value that cannot work, and
    `~tricorn.errors.IncompatibleParts` for an ``inner`` that cannot be wrapped.
    """

    kind: ClassVar[Kind] = Kind.STREAM

    inner: Transport = field(validator=_stream_with_descriptors)
    certfile: str | os.PathLike[str] = field(
        kw_only=True, converter=_path_or_none, validator=_path, metadata={"help": "PEM file with the certificate"}
    )
    keyfile: str | os.PathLike[str] | None = field(
        default=None,
        kw_only=True,
        converter=_path_or_none,
        validator=_path_if_given,
        metadata={"help": "PEM file with its private key; none: in certfile too"},
    )
    password: Password = field(default=None, kw_only=True, repr=False, metadata={"help": "opens an encrypted key"})
    sni: Any = field(
        default=(),
        kw_only=True,
        converter=_named_pairs,
        metadata={
            "help": "further certificates by the name that is asked for",
            "allowed": "name:certfile:keyfile, several with commas between",
            "read": _read_sni,
            "spell": lambda pairs: ",".join(":".join(pair) for pair in pairs),
        },
    )
    alpn: tuple[str, ...] = field(
        default=(), kw_only=True, converter=_protocols, metadata={"help": "protocols, the best first"}
    )
    client_certificates: Literal["none", "optional", "required"] = field(
        default="none", kw_only=True, metadata={"help": "whether the peer needs one"}
    )
    client_ca: str | os.PathLike[str] | None = field(
        default=None,
        kw_only=True,
        converter=_path_or_none,
        validator=_path_if_given,
        metadata={"help": "PEM file with the authorities of peers' certificates"},
    )
    minimum_version: Literal["1.2", "1.3"] = field(default="1.2", kw_only=True, metadata={"help": "of TLS"})
    ciphers: str | None = field(default=None, kw_only=True, metadata={"help": "for TLS 1.2, as OpenSSL writes them"})
    handshake_timeout: float = field(default=10.0, kw_only=True, metadata={"help": "seconds for the handshake"})
    allow_expired: bool = field(
        default=False, kw_only=True, validator=flag, metadata={"help": "serve certificates out of their time"}
    )

    @property
    def attests(self) -> frozenset[str]:  # type: ignore[override]
        """What is known below, and a certificate where peers are asked for one."""
        return self.inner.attests | ({"certificate"} if self.client_certificates != "none" else set())

    @sni.validator
    def _sni_as_it_should_be(self, option: Attribute[Any], value: object) -> None:
        allowed = 'a mapping of host names to files, such as {"example.org": ("cert.pem", "key.pem")}'
        if not isinstance(value, tuple):
            refuse_option(self, option.name, value, allowed)
        for entry in value:
            if len(entry) not in (2, 3) or not all(isinstance(each, str) and each for each in entry):
                refuse_option(self, option.name, value, allowed)

    @alpn.validator
    def _alpn_as_it_should_be(self, option: Attribute[Any], value: object) -> None:
        if not isinstance(value, tuple) or not all(
            isinstance(each, str) and each.isascii() and 0 < len(each) < 256 for each in value
        ):
            refuse_option(self, option.name, value, 'names of 1 to 255 ASCII characters, such as ("h2", "http/1.1")')

    @password.validator
    def _password_as_it_should_be(self, option: Attribute[Any], value: object) -> None:
        if value is not None and not isinstance(value, (str, bytes)) and not callable(value):
            refuse_option(self, option.name, "...", "text, bytes, or a function that returns one of these")

    @client_certificates.validator
    def _known_word(self, option: Attribute[Any], value: object) -> None:
        if value not in _CLIENT_CERTIFICATES:
            refuse_option(self, option.name, value, " or ".join(map(repr, _CLIENT_CERTIFICATES)))

    @minimum_version.validator
    def _known_version(self, option: Attribute[Any], value: object) -> None:
        if value not in _VERSIONS:
            refuse_option(self, option.name, value, "'1.2' or '1.3'; older versions are broken")

    @handshake_timeout.validator
    def _bounded(self, option: Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_HANDSHAKE_S:
            refuse_option(self, option.name, value, f"seconds, above 0 and up to {MAX_HANDSHAKE_S:g}, never unlimited")

    def __attrs_post_init__(self) -> None:
        if self.client_certificates != "none" and self.client_ca is None:
            raise ConfigurationError(
                f"TLS(client_certificates={self.client_certificates!r}): client_ca must say who signs them"
            )
        if self.client_certificates == "none" and self.client_ca is not None:
            raise ConfigurationError(
                f"TLS(client_ca={self.client_ca!r}): no certificate is asked for; client_certificates must be "
                "'optional' or 'required'"
            )

    def listen(self) -> tuple[TLSListener, ...]:
        """Read the files, and then listen as ``inner`` does.

        Blocks for the files.  Raises `~tricorn.errors.ConfigurationError` with the file and what is wrong with it,
        before anything is bound; `~tricorn.errors.ListenError` as ``inner`` does.
        """
        live = LiveContext(self._context)
        return tuple(TLSListener(listener, live, self.handshake_timeout) for listener in self.inner.listen())

    def _context(self) -> ssl.SSLContext:
        """All that is in the files, as it is now."""
        pair = KeyPair(os.fspath(self.certfile), _text_or_none(self.keyfile), self.password)
        context = self._context_with(pair)
        others = {
            name: self._context_with(KeyPair(cert, key[0] if key else None, self.password))
            for name, cert, *key in self.sni
        }

        def choose(sock: Any, name: str | None, _: ssl.SSLContext) -> None:
            note_server_name(sock, name)
            other = _chosen(others, name) if others and name else None
            if other is not None:
                sock.context = other

        context.sni_callback = choose
        return context

    def _context_with(self, pair: KeyPair) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self.minimum_version]
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF  # an end is an end, and we can still answer
        context.options |= ssl.OP_NO_RENEGOTIATION  # which costs the server most: RFC 9325 section 3.5 lets us refuse
        context.sslsocket_class = TLSSocket
        if self.ciphers is not None:
            try:
                context.set_ciphers(self.ciphers)
            except ssl.SSLError as error:
                raise ConfigurationError(f"TLS(ciphers={self.ciphers!r}): OpenSSL knows none of them") from error
        load_pair(context, pair, allow_expired=self.allow_expired)
        if self.client_ca is not None:
            load_authorities(context, os.fspath(self.client_ca))
        context.verify_mode = _CLIENT_CERTIFICATES[self.client_certificates]
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        return context


def _text_or_none(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _chosen(others: Mapping[str, ssl.SSLContext], name: str) -> ssl.SSLContext | None:
    """By the name, or with a star in the place of its first label."""
    name = name.lower()
    return others.get(name) or others.get("*." + name.partition(".")[2])


@define(eq=False)
class TLSListener(Listener):
    """A listener whose connections speak TLS once they are opened.  As safe as the one below it."""

    kind: ClassVar[Kind] = Kind.STREAM

    _inner: Listener
    _live: LiveContext
    _handshake_timeout: float
    #: That of the listener below.
    address: object = field(init=False)
    _number: int = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.address = self._inner.address
        self._number = restorable(self)

    def fileno(self) -> int:
        """That of the listener below."""
        return self._inner.fileno()

    def accept(self) -> Request:
        """Accept as the listener below does; the handshake is for `Connection.open`."""
        return self.around(self._inner.accept())

    def around(self, inner: Any) -> TLSConnection:
        """Wrap a connection that is not open yet."""
        assert isinstance(inner, Connection)
        return TLSConnection(
            inner.socket, inner.peer, inner=inner, context=self._live.current(),
            handshake_timeout=self._handshake_timeout, restorers=(*inner.restorers, self._number),
        )  # fmt: skip

    def reload(self) -> None:
        """Read the files again; connections accepted from now on get what is in them.  See `Server.reload`.

        Raises `~tricorn.errors.ConfigurationError`, and everything stays as it was, if they cannot be used.
        """
        self._live.reload()

    def hold_off(self) -> None:
        """As the listener below."""
        self._inner.hold_off()

    def close(self) -> None:
        """As the listener below."""
        self._inner.close()

    def disown(self) -> None:
        """As the listener below."""
        self._inner.disown()

    def adopt(self) -> None:
        """As the listener below."""
        self._inner.adopt()
