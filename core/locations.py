"""How the location in a transport's text becomes arguments of the transport's class.

A text is ``scheme:location?options``.  The three locators here serve nearly every transport; a new kind of place (a
database, a device) brings its own `Locator`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address

from attrs import frozen

from tricorn.notation import decoded

__all__ = ["GIVEN_NAME", "HOST_AND_PORT", "NOWHERE", "PATH", "Locator"]


@frozen
class Locator:
    """Reads one kind of location.

    ``arguments`` are the names of the class's arguments that the location fills; they cannot be given as options.
    ``example`` is a location as one writes it.  ``read`` gets the raw text between ``scheme:`` and ``?``, and returns
    the arguments' values in the order of ``arguments``; it raises `ValueError` with what is wrong and what is allowed.
    """

    arguments: tuple[str, ...]
    example: str
    read: Callable[[str], tuple[object, ...]]


def _host_and_port(location: str) -> tuple[str, int]:
    host, port = _split_port(_authority(location))
    return _host(host), _port(port)


def _authority(location: str) -> str:
    if not location.startswith("//"):
        raise ValueError("two slashes are missing before the host")
    if "@" in location:  # a password may hold a slash, so look before taking the text apart
        raise ValueError("a user name or password means nothing here; only a host and a port are allowed")
    authority, slash, rest = location[2:].partition("/")
    if slash:
        raise ValueError(f"'/{rest}' follows the port; nothing may")
    return authority


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, bracket, port = authority.rpartition("]")
        if not bracket or port[:1] not in ("", ":"):
            raise ValueError(f"'{authority}' is not an IPv6 address in brackets and then a colon and a port")
        return host + bracket, port[1:]
    host, _, port = authority.rpartition(":") if ":" in authority else (authority, "", "")
    if ":" in host:
        raise ValueError(f"'{authority}' is ambiguous; an IPv6 address goes in brackets, such as [::1]")
    return host, port


def _host(text: str) -> str:
    if not text:
        raise ValueError("the host is missing; 0.0.0.0 and [::] mean every interface")
    host = decoded(text, errors="strict")
    if host.startswith("["):
        return _ipv6(host[1:-1])
    if not host.isprintable() or re.search(r"[\s\[\]/@:]", host):
        raise ValueError(f"host {host!r} has a character that no host name has")
    return host


def _ipv6(host: str) -> str:
    try:
        IPv6Address(host)
    except ValueError as error:
        raise ValueError(f"'{host}' in brackets is not an IPv6 address") from error
    return host


def _port(text: str) -> int:
    if not text:
        raise ValueError("the port is missing; 0 asks for a free one")
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"the port is '{text}'; allowed: a whole number from 0 to 65535")
    return int(text)


def _path(location: str) -> tuple[str]:
    if location.startswith("//") and not location.startswith("///"):
        raise ValueError("a path has no host; write one slash, or three")
    path = decoded(location.removeprefix("//"))
    if not path:
        raise ValueError("the path is missing")
    if "\0" in path:
        raise ValueError("a path holds no NUL character; an abstract name begins with @")
    return (path,)


def _given_name(location: str) -> tuple[str]:
    if location.startswith("/"):
        raise ValueError(f"'{location}' has a slash; only a name is allowed")
    return (decoded(location, errors="strict"),)


def _nowhere(location: str) -> tuple[()]:
    if location:
        raise ValueError(f"'{location}' is a location, and this transport has none")
    return ()


#: ``//host:port``, with an IPv6 address in brackets: fills ``host`` and ``port``.
HOST_AND_PORT = Locator(("host", "port"), "//127.0.0.1:9999", _host_and_port)
#: ``/absolute``, ``relative``, ``///absolute`` or ``@abstract``: fills ``path``.
PATH = Locator(("path",), "/run/app.sock", _path)
#: A name that somebody else gave, without slashes; or nothing: fills ``name``.
GIVEN_NAME = Locator(("name",), "web", _given_name)
#: Nothing at all.
NOWHERE = Locator((), "", _nowhere)
