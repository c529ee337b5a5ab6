"""A connection over TLS: the handshake on the worker, under a deadline, with errors that say what the peer did."""

from __future__ import annotations

import selectors
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Any

from attrs import define, field

from tricorn.connection import Connection
from tricorn.deadline import Deadline
from tricorn.errors import ConnectionLost, HandshakeError, HandshakeTimeout, StateError, TransportError
from tricorn.tls_socket import TLSSocket, reason_of

if TYPE_CHECKING:
    from tricorn.proxy_header import ProxyHeader

__all__ = ["TLSConnection", "note_server_name"]


def note_server_name(sock: Any, name: str | None) -> None:
    """For a context's ``sni_callback``: remember what the peer asked for, on an `ssl.SSLSocket` or `ssl.SSLObject`.

    In small letters: names of hosts know no others, RFC 4343.
    """
    sock.sni_name = name.lower() if name else None


@define(eq=False)
class TLSConnection(Connection):
    """A `~tricorn.connection.Connection` that speaks TLS from `open` on.

    ``inner`` is the connection below, which is opened first; ``context`` the one that was live when it was accepted.
    """

    _inner: Connection = field(kw_only=True, alias="inner")
    _context: ssl.SSLContext = field(kw_only=True, alias="context", repr=False)
    #: Seconds from the beginning of the handshake to its end.
    handshake_timeout: float = field(kw_only=True, default=10.0)
    _restorers: tuple[int, ...] = field(kw_only=True, default=(), alias="restorers", repr=False)
    _inner_open: bool = field(default=False, init=False, repr=False)
    _is_open: bool = field(default=False, init=False, repr=False)
    _deadline: Deadline | None = field(default=None, init=False, repr=False)
    _server_name: str | None = field(default=None, init=False, repr=False)
    _alpn: str | None = field(default=None, init=False, repr=False)
    _certificate: dict[str, Any] | None = field(default=None, init=False, repr=False)

    @property
    def tls(self) -> ssl.SSLContext:
        """The context for a loop that does the handshake itself; it calls `opened_by` when that is done."""
        return self._context

    @property
    def server_name(self) -> str | None:
        """By SNI."""
        return self._server_name

    @property
    def alpn(self) -> str | None:
        """By ALPN."""
        return self._alpn

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's."""
        return self._certificate

    @property
    def proxy(self) -> object:
        """That of the connection below."""
        return self._inner.proxy

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """That of the connection below."""
        return self._inner.proxy_header

    @property
    def restorers(self) -> tuple[int, ...]:
        """Raises `StateError` once it is being opened: keys and counters of a conversation stay in their process."""
        if self._deadline is not None:
            raise StateError(
                "a TLS connection that was opened in this process cannot be given to another one that runs already; "
                "choose by the peer's address, or use Fork, whose child has everything"
            )
        return self._restorers

    # -- opening

    def open(self, deadline: Deadline) -> None:
        """Open the connection below, and shake hands, within ``handshake_timeout`` seconds; nothing if that is done.

        Raises `~tricorn.errors.HandshakeError` with what the peer did wrong, `~tricorn.errors.HandshakeTimeout`, or
        `~tricorn.errors.ConnectionLost` if the peer left.
        """
        if self._is_open:
            return
        self._inner.open(deadline)
        self._take_over()
        self._deadline = deadline.sooner(Deadline.after(self.handshake_timeout))
        sock = self._encrypt()
        patience = sock.gettimeout()
        sock.settimeout(max(self._deadline.remaining() or 0.0, 0.001))
        self._shake_hands(sock)
        sock.settimeout(patience)

    def open_step(self) -> int:
        """As `open`, without blocking.  Raises `~tricorn.errors.HandshakeTimeout` if called after `open_until`."""
        if self._is_open:
            return 0
        if wanted := self.reach_tls():
            return wanted
        if self._deadline is None:
            self._deadline = Deadline.after(self.handshake_timeout)
        sock = self.socket if isinstance(self.socket, TLSSocket) else self._encrypt()
        if self._deadline.expired:
            raise self._failed(sock, TimeoutError())
        try:
            self._shake_hands(sock)
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0

    def reach_tls(self) -> int:
        """Open the connection below, without blocking."""
        if not self._inner_open:
            if wanted := self._inner.open_step():
                return wanted
            self._take_over()
        return 0

    @property
    def open_until(self) -> Deadline | None:
        """By when `open_step` must have returned 0; ``None`` before it was called."""
        return self._deadline or self._inner.open_until

    def opened_by(self, ssl_object: Any) -> None:
        """For a loop that did the handshake itself: take over what its `ssl.SSLObject` knows."""
        self._is_open = True
        self._deadline = self._deadline or Deadline(None)
        self._server_name = ssl_object.sni_name if hasattr(ssl_object, "sni_name") else None
        self._alpn = ssl_object.selected_alpn_protocol()
        self._certificate = ssl_object.getpeercert() or None

    def opening_failed(self, error: Exception) -> TransportError:
        """For a loop whose own handshake ended in ``error``: the failure as `open` raises it, noted as the peer's."""
        return self._failed(self.socket, error)

    def _take_over(self) -> None:
        """The connection below may have put its descriptor into another socket, and may know the peer better."""
        with self._lock:
            self.socket, self.peer = self._inner.socket, self._inner.peer
        self._local = self._inner.local
        self._inner_open = True

    def _encrypt(self) -> TLSSocket:
        with self._lock:
            plain = self.socket
            try:
                sock = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError) as error:
                raise self._failed(plain, error) from error
            self.socket = sock
            sock.guard = self._lock  # type: ignore[attr-defined]
            if getattr(plain, "draining", False):
                sock.drain()  # type: ignore[attr-defined]
        assert isinstance(sock, TLSSocket)
        if sock._sslobj is None:  # the peer reset it before we looked
            raise self._failed(sock, ConnectionResetError())
        return sock

    def _shake_hands(self, sock: TLSSocket) -> None:
        sock.sent_at = monotonic()  # as after an interim reply: a drain lets the peer go on, if it does so soon
        sock.waiting = True
        try:
            sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except (OSError, ValueError) as error:
            raise self._failed(sock, error) from error
        finally:
            sock.waiting = False
            sock.sent_at = float("-inf")
            sock._boundaries = 0
        self.opened_by(sock)

    def _failed(self, sock: Any, error: Exception) -> TransportError:
        """The failure in our words, noted as the peer's doing."""
        if isinstance(error, TimeoutError):
            failure: TransportError = HandshakeTimeout(
                f"the TLS handshake was not over after {self.handshake_timeout:g} s"
            )
        elif isinstance(error, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            failure = ConnectionLost("the peer left during the TLS handshake")
        elif isinstance(error, ssl.SSLError):
            failure = HandshakeError(_what_the_peer_did(error))
        else:
            failure = ConnectionLost(f"the peer left during the TLS handshake ({error})")
        sock.fault = failure
        return failure

    # -- being open

    def wanted(self, error: OSError, otherwise: int) -> int:
        """TLS may have to read in order to send, and the other way round."""
        if isinstance(error, ssl.SSLWantReadError):
            return selectors.EVENT_READ
        if isinstance(error, ssl.SSLWantWriteError):
            return selectors.EVENT_WRITE
        return otherwise if isinstance(error, BlockingIOError) else 0

    def buffered(self) -> int:
        """Bytes of a record that was received and is not yet read to its end."""
        return self.socket.pending() if isinstance(self.socket, TLSSocket) else 0

    def rehouse(self, socket_class: Any) -> None:
        """Raises `~tricorn.errors.StateError`: the encryption belongs to the socket class of `ssl`."""
        raise StateError("a TLS connection cannot be put into another socket class; use a dispatcher of Tricorn's own")

    # -- ending

    def close(self) -> None:
        """Say ``close_notify`` and close; a second call does nothing."""
        self._say_goodbye()
        super().close()

    def finish(self, error: BaseException | None) -> None:
        """Say ``close_notify`` and close; waits `CLOSE_NOTIFY_S` at most for a peer that does not read."""
        self._say_goodbye()
        super().finish(error)

    def _say_goodbye(self) -> None:
        """Not under the lock, under which `drain` and `abort` come."""
        if isinstance(self.socket, TLSSocket):
            self.socket.say_goodbye()

    def disown(self) -> None:
        """Close this process's copy, without ``close_notify``."""
        with self._lock:
            (self.socket.abandon if isinstance(self.socket, TLSSocket) else self.socket.close)()


# -- what went wrong

_PLAIN_TEXT = {
    "HTTP_REQUEST": "the peer sent plain HTTP to a TLS port: it should use https://",
    "HTTPS_PROXY_REQUEST": "the peer sent a plain CONNECT to a TLS port, as to a proxy",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS: what it sent first is no ClientHello",
    "UNKNOWN_PROTOCOL": "the peer does not speak TLS: what it sent first is no ClientHello",
    "PACKET_LENGTH_TOO_LONG": "the peer does not speak TLS, or badly: its first record is too long",
    "RECORD_LAYER_FAILURE": "the peer does not speak TLS: what it sent first is no record",
}
_VERSION = "the peer speaks none of the TLS versions that are allowed here"
_NO_AGREEMENT = {
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "VERSION_TOO_LOW": _VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer allows none of the TLS versions that we speak",
    "NO_SHARED_CIPHER": "the peer offers no cipher that we use with this certificate",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the peer offers no signature algorithm for our certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer has shown no certificate, and client_certificates='required'",
}
#: Alerts about certificates, RFC 8446 section 6.2, as OpenSSL names them when it receives one.
_REFUSALS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know who signed it",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it holds it for bad",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not support its type",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it holds it for revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it holds it for expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it finds it unacceptable; perhaps it is not for the name that was asked for",
    "TLSV1_ALERT_DECRYPT_ERROR": "it cannot verify its signature",
    "TLSV1_ALERT_ACCESS_DENIED": "it denies access",
}


def _what_the_peer_did(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    if reason in _REFUSALS:
        return f"the peer refuses our certificate: {_REFUSALS[reason]}"
    known = _PLAIN_TEXT.get(reason) or _NO_AGREEMENT.get(reason)
    return known or f"the TLS handshake failed: {reason_of(error)}"
