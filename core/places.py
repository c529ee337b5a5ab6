"""Where a table is: URLs of databases, read, shown without their secrets, and found in a transport's text."""

from __future__ import annotations

import re

from attrs import field, frozen

from tricorn.locations import PATH, Locator

__all__ = ["POSTGRESQL_PLACE", "SQLITE_PLACE", "Place", "read_place", "without_secrets"]

_ALLOWED = "sqlite:/path/to/file.db, or postgresql://user:password@host/database"
_IN_AUTHORITY = re.compile(r"(?<=//)([^/:@?]*):.*(?=@)", re.DOTALL)
_IN_OPTIONS = re.compile(r"(?i)((?:ssl)?password(?:=|%3d))[^&]*")


@frozen
class Place:
    """``scheme`` is ``"sqlite"`` or ``"postgresql"``; ``target`` a file's path or libpq's URL, secrets and all, and so
    it is not in the `repr`; ``shown`` is fit for people."""

    scheme: str
    target: str = field(repr=False)
    shown: str

    def address(self, table: str) -> str:
        """As it could be given by name: ``table+sqlite:/path/jobs.db?table=jobs``."""
        rest = self.shown.partition(":")[2].replace("?", "%3F").replace("&", "%26")
        return f"table+{self.scheme}:{rest}?table={table}"


def read_place(url: object) -> Place:
    """Take a URL apart.  Raises `ValueError`, which quotes no secret; opens nothing."""
    if not isinstance(url, str):
        raise ValueError(f"a text like {_ALLOWED}")  # noqa: TRY004 - as all that is wrong with it
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "sqlite":
        return _sqlite(rest)
    if colon and scheme in ("postgresql", "postgres"):
        if not rest.startswith("//") or "\0" in rest:
            raise ValueError("a URL of libpq: postgresql://user:password@host:port/database?option=value")
        return Place("postgresql", f"postgresql:{rest}", without_secrets(f"postgresql:{rest}"))
    raise ValueError(f"the URL of a database: {_ALLOWED}")


def _sqlite(location: str) -> Place:
    try:
        (path,) = PATH.read(location)
    except ValueError as error:
        raise ValueError(f"sqlite: and the path of a file; {error}") from None
    assert isinstance(path, str)
    if path.startswith(":memory:"):
        raise ValueError("a file: what is in memory cannot be shared by processes; for tests, take a temporary file")
    if "?" in path:
        raise ValueError("sqlite: and the path of a file, without options (a ? in its name is written %3F)")
    return Place("sqlite", path, f"sqlite:{location}")


def without_secrets(url: str) -> str:
    """The URL with ``...`` for a password, wherever libpq lets one write it."""
    return _IN_OPTIONS.sub(r"\1...", _IN_AUTHORITY.sub(r"\1:...", url))


def _sqlite_url(location: str) -> tuple[str]:
    PATH.read(location)
    return (f"sqlite:{location}",)


def _postgresql_url(location: str) -> tuple[str]:
    if not location.startswith("//"):
        raise ValueError("two slashes are missing before the host")
    authority, slash, rest = location[2:].partition("/")
    database, mark, options = re.sub("%3f", "%3F", rest).partition("%3F")
    if mark:
        rest = f"{database}?{options.replace('%26', '&').replace('%3D', '=')}"
    return (f"postgresql://{authority}{slash}{rest}",)


#: ``/absolute``, ``relative`` or ``///absolute``: the file of an sqlite database.
SQLITE_PLACE = Locator(("url",), "/var/lib/app/jobs.db", _sqlite_url)
#: What follows ``postgresql:`` in a URL of libpq; the ``?`` before its options is written ``%3F``, the ``&`` ``%26``.
POSTGRESQL_PLACE = Locator(("url",), "//user:password@host/database", _postgresql_url)
