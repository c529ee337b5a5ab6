"""The PROXY protocol in front of any transport that yields connections."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import define, field, frozen

from tricorn.checks import flag, refuse_option, seconds
from tricorn.connection import Connection
from tricorn.contracts import Kind, Listener, Request, Transport
from tricorn.errors import IncompatibleParts, PeerRefused
from tricorn.handover import restorable
from tricorn.proxy_connection import ProxyConnection

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["ProxyListener", "ProxyProtocol"]

#: In ``trusted``: whoever can connect to a Unix socket.
UNIX = "unix"
_Network = IPv4Network | IPv6Network


def _texts(given: Any) -> Any:
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else given


def _accepts_connections(owner: object, option: Attribute[Any], inner: object) -> None:
    if not isinstance(inner, Transport):
        refuse_option(owner, option.name, inner, "a transport, such as TCP('127.0.0.1', 8080)")
    name = type(inner).__name__
    if inner.kind is not Kind.STREAM:
        raise IncompatibleParts(
            f"a PROXY header begins a connection, and {name} yields {inner.kind.value} requests; "
            "use ProxyProtocol around TCP or UnixStream"
        )
    if inner.in_process:
        raise IncompatibleParts(f"no proxy could connect to {name}; use ProxyProtocol around TCP or UnixStream")
    if isinstance(getattr(inner, "inner", None), Transport):
        raise IncompatibleParts(
            f"a PROXY header comes before everything else, so ProxyProtocol cannot go around {name}(...); "
            f"write {name}(ProxyProtocol(...))"
        )


@frozen
class ProxyProtocol(Transport):
    """Connections that come through a proxy which says for whom: ``ProxyProtocol(TCP("", 8080), trusted=["::1"])``.

    A trusted peer begins each connection with a header of the PROXY protocol, version 1 or 2.  Then
    `~tricorn.connection.Connection.peer` is the client that it names, ``local`` the address that the client connected
    to, `~tricorn.connection.Connection.proxy` the proxy's own address, and
    `~tricorn.connection.Connection.proxy_header` all it said.  Where it names no client (LOCAL, UNKNOWN: it speaks for
    itself) ``peer`` stays the proxy.  Encryption comes behind the header: ``TLS(ProxyProtocol(TCP(...)), ...)``.

    ``inner``: the transport below, any that yields connections with a descriptor.
    ``trusted``: whose word counts: addresses (``"127.0.0.1"``), networks (``"10.0.0.0/8"``), and ``"unix"`` for whoever
    can connect to a Unix socket.  There is no default: whoever is trusted can claim to be anybody.
    ``timeout``: seconds for the header, from when a worker takes the connection to its last byte; 5 by default.  A
    proxy sends it at once; the protocol's own advice is to wait 3 seconds at least, since a segment may be lost.
    ``required``: a trusted peer that sends no header is refused.  ``False`` serves it as the client that it is then;
    what it sends first must not look like the beginning of a header (``PROXY``, or CR LF CR LF), and a server cannot
    speak first.
    ``untrusted``: what becomes of other peers.  "refuse", the default, closes their connections, as the protocol asks;
    "pass" serves them as what they are, and never looks for a header in what they send.

    Whether a peer is trusted is decided when it is accepted, by its address; ``verify`` sees that address too.  The
    header is read on the worker, so that a silent proxy holds up nobody else.  A header in text has 107 bytes at most,
    one in binary `tricorn.proxy_header.MAX_V2_BYTES`; its CRC32c is verified where there is one.  Credentials of a Unix
    socket are the proxy's, and nobody is identified by them.

    Source: "The PROXY protocol", versions 1 and 2, sections 2 to 4.  Raises `~tricorn.errors.ConfigurationError` for a
    value that cannot work, and `~tricorn.errors.IncompatibleParts` for an ``inner`` that cannot have headers.
    """

    kind: ClassVar[Kind] = Kind.STREAM

    inner: Transport = field(validator=_accepts_connections)
    trusted: tuple[str, ...] = field(
        kw_only=True, converter=_texts, metadata={"help": "addresses and networks of proxies, and unix"}
    )
    timeout: float = field(default=5.0, kw_only=True, validator=seconds, metadata={"help": "seconds for the header"})
    required: bool = field(
        default=True, kw_only=True, validator=flag, metadata={"help": "a trusted peer must send a header"}
    )
    untrusted: Literal["refuse", "pass"] = field(
        default="refuse", kw_only=True, metadata={"help": "what becomes of other peers"}
    )

    @property
    def urgent(self) -> str:
        """What becomes of urgent bytes, as the transport below says."""
        return str(getattr(self.inner, "urgent", "ignore"))

    @trusted.validator
    def _known_peers(self, option: Attribute[Any], value: object) -> None:
        allowed = 'addresses and networks, such as ["127.0.0.1", "10.0.0.0/8"], or "unix"; one at least'
        if not isinstance(value, tuple) or not value or not all(isinstance(each, str) for each in value):
            refuse_option(self, option.name, value, allowed)
        try:
            _Trust(value)
        except ValueError as error:
            refuse_option(self, option.name, value, f"{allowed} ({error})")

    @untrusted.validator
    def _known_word(self, option: Attribute[Any], value: object) -> None:
        if value not in ("refuse", "pass"):
            refuse_option(self, option.name, value, "'refuse' or 'pass'")

    def listen(self) -> tuple[ProxyListener, ...]:
        """Listen as ``inner`` does; raises as that does."""
        trust = _Trust(self.trusted)
        return tuple(
            ProxyListener(listener, trust, self.timeout, self.required, self.untrusted == "pass")
            for listener in self.inner.listen()
        )


class _Trust:
    """Whose headers count.  Raises `ValueError` for text that is no address and no network."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._unix = UNIX in trusted
        self._networks: list[_Network] = [ip_network(each) for each in trusted if each != UNIX]

    def __contains__(self, peer: object) -> bool:
        if not isinstance(peer, tuple):
            return self._unix and isinstance(peer, (str, bytes))
        try:
            address = ip_address(str(peer[0]).partition("%")[0])
        except (ValueError, IndexError):
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


@define(eq=False)
class ProxyListener(Listener):
    """A listener whose trusted peers begin with a header.  As safe as the one below it."""

    kind: ClassVar[Kind] = Kind.STREAM

    _inner: Listener
    _trust: _Trust = field(repr=False)
    _timeout: float = 5.0
    _required: bool = True
    _lets_pass: bool = False
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
        """Accept as the listener below does; the header is for `Connection.open`.

        Raises `~tricorn.errors.PeerRefused` for a peer that is not trusted, whose connection is closed.
        """
        inner = self._inner.accept()
        if inner.peer in self._trust:
            return self.around(inner)
        if self._lets_pass:
            return inner
        inner.finish(None)
        raise PeerRefused("a peer that is not trusted to send a PROXY header", inner.peer)

    def around(self, inner: Any) -> ProxyConnection:
        """Wrap a connection that is not open yet."""
        assert isinstance(inner, Connection)
        return ProxyConnection(
            inner.socket, inner.peer, inner=inner, header_timeout=self._timeout, required=self._required,
            restorers=(*inner.restorers, self._number),
        )  # fmt: skip

    def reload(self) -> None:
        """As the listener below."""
        self._inner.reload()

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
