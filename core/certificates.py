"""Certificates and private keys: from files into an `ssl.SSLContext`, with an error that says which file is wrong.

The `ssl` module says ``[SSL] PEM lib`` for most of what can be wrong with a file, and nothing at all about dates.  So
the files are looked at before and after.  Formats: RFC 7468 (PEM), RFC 5280 section 4.1 (certificates), X.690 (DER).
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from attrs import field, frozen

from tricorn.errors import ConfigurationError

__all__ = ["KeyPair", "Password", "load_authorities", "load_pair", "validity"]

#: What opens an encrypted key: text, or a function that is asked for it.
Password = str | bytes | Callable[[], str | bytes] | None

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
#: The last is what another type of key gets: it finds no certificate of its own type.
_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_WEAK = ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "EE_MD_TOO_WEAK")


@frozen
class KeyPair:
    """A file with a certificate, and after it those that signed it, and a file with its private key, both PEM.

    Without ``keyfile`` the key is in ``certfile`` too.  ``password`` opens an encrypted key; a function is asked for it
    whenever the key is loaded.  Nothing is read before `load_pair`.
    """

    certfile: str
    keyfile: str | None = None
    password: Password = field(default=None, repr=False)


def load_pair(context: ssl.SSLContext, pair: KeyPair, *, allow_expired: bool = False) -> None:
    """Load ``pair`` into ``context``.  Reads files, and so may block.

    Raises `ConfigurationError` with the file and what is wrong: missing, unreadable, no PEM, an encrypted key without
    its password, a key that belongs to another certificate, a key that is too weak for OpenSSL's security level, and a
    certificate that is not valid yet or no longer, unless ``allow_expired``.
    """
    certfile, keyfile = pair.certfile, pair.keyfile or pair.certfile
    text = _read(certfile, "certfile")
    if not _CERTIFICATE.search(text):
        raise ConfigurationError(f"certfile '{certfile}' holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    key = text if keyfile == certfile else _read(keyfile, "keyfile")
    if "PRIVATE KEY-----" not in key:
        hint = "" if pair.keyfile else "; without keyfile the key has to be in the same file"
        raise ConfigurationError(f"keyfile '{keyfile}' holds no private key in PEM (-----BEGIN PRIVATE KEY-----){hint}")
    try:
        context.load_cert_chain(certfile, keyfile, password=_asked(pair))
    except (ssl.SSLError, ValueError, OSError) as error:
        _refuse(pair, keyfile, error)
    if not allow_expired:
        _check_dates(certfile, text)


def load_authorities(context: ssl.SSLContext, path: str) -> None:
    """Trust the authorities in ``path``, a PEM file or a folder made by ``openssl rehash``.  Raises as `load_pair`."""
    if os.path.isdir(path):
        context.load_verify_locations(capath=path)
        return
    text = _read(path, "client_ca")
    if not _CERTIFICATE.search(text):
        raise ConfigurationError(f"client_ca '{path}' holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"client_ca '{path}' cannot be used: {error}") from error


def _read(path: str, option: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise ConfigurationError(f"{option} '{path}' cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise ConfigurationError(f"{option} {path!r} is no path: {error}") from error


class _NoPassword(ValueError):
    """The key turned out to be encrypted."""


def _asked(pair: KeyPair) -> Callable[[], str | bytes]:
    """Always a function: without one OpenSSL would ask on the terminal, and wait there."""

    def ask() -> str | bytes:
        if pair.password is None:
            raise _NoPassword("it is encrypted, and no password was given")
        return pair.password() if callable(pair.password) else pair.password

    return ask


def _refuse(pair: KeyPair, keyfile: str, error: Exception) -> NoReturn:
    reason = getattr(error, "reason", None) or ""
    if reason in _MISMATCH:
        message = f"the private key in '{keyfile}' does not belong to the certificate in '{pair.certfile}'"
    elif isinstance(error, _NoPassword):
        message = f"keyfile '{keyfile}' cannot be used: {error}"
    elif reason in _WEAK:
        message = f"certfile '{pair.certfile}' is too weak for the security level of {ssl.OPENSSL_VERSION}: {error}"
    elif "DECRYPT" in reason or pair.password is not None:
        message = f"keyfile '{keyfile}' cannot be used: the password is wrong, or it is damaged ({error})"
    else:
        message = f"certfile '{pair.certfile}' with keyfile '{keyfile}' cannot be used, one is damaged: {error}"
    raise ConfigurationError(message) from error


# -- dates


def _check_dates(certfile: str, text: str) -> None:
    now = datetime.now(UTC)
    for number, pem in enumerate(_CERTIFICATE.findall(text), 1):
        try:
            begins, ends = validity(ssl.PEM_cert_to_DER_cert(pem))
        except (ValueError, IndexError) as error:
            raise ConfigurationError(f"certificate {number} in certfile '{certfile}' is damaged: {error}") from error
        if now > ends:
            wrong = f"expired on {ends:%Y-%m-%d %H:%M} UTC"
        elif now < begins:
            wrong = f"is not valid before {begins:%Y-%m-%d %H:%M} UTC"
        else:
            continue
        raise ConfigurationError(
            f"certificate {number} in certfile '{certfile}' {wrong}; renew it (allow_expired=True serves it even so)"
        )


def validity(der: bytes) -> tuple[datetime, datetime]:
    """From when to when a certificate in DER is valid: RFC 5280 section 4.1.2.5.

    Raises `ValueError` or `IndexError` for what is no certificate.
    """
    _, at, _ = _element(der, 0)  # Certificate
    _, at, _ = _element(der, at)  # TBSCertificate
    tag, _, end = _element(der, at)
    if tag == 0xA0:  # version, which may be left out
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at)  # Validity
    tag, start, end = _element(der, at)
    begins = _time(tag, der[start:end])
    tag, start, end = _element(der, end)
    return begins, _time(tag, der[start:end])


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at ``at``, and where its contents begin and end.  X.690 section 8.1."""
    tag, length = der[at], der[at + 1]
    start = at + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if start + length > len(der):
        raise ValueError("it is cut off")
    return tag, start, start + length


def _time(tag: int, text: bytes) -> datetime:
    """UTCTime has two digits for the year, which mean 1950 to 2049; GeneralizedTime has four."""
    digits = text.decode("ascii")
    if tag == 0x17:
        digits = ("19" if digits[:2] >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
