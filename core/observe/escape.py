"""Text of unknown origin, made fit for a log: what a peer sends can neither start a line nor steer a terminal.

Peers choose more of a log than one thinks: the name of their Unix socket, and whatever a handler's exception quotes.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

from tricorn.errors import RemoteError

__all__ = ["escape", "escape_address", "escape_error", "escape_traceback"]

#: How much of one exception's message is kept, in characters.
MAX_MESSAGE = 4000
#: How many links of a chain, members of a group, and groups within groups are shown.
MAX_CHAIN, MAX_MEMBERS, MAX_DEPTH = 20, 15, 10

_CAUSED = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"

# C0, DEL and C1, the backslash itself, the line separators and the marks that turn the reading direction, surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\\\\\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape(text: str) -> str:
    r"""``text`` on one line, with everything that is not plain text made visible.

    Control characters (C0, C1, DEL) and the backslash become ``\xHH``; line and paragraph separators, marks that turn
    the reading direction, and lone surrogates become ``\uHHHH``.  No two texts give the same result, and the result
    can be encoded.  Never raises.

    >>> print(escape("/run/x\nINFO all is well"))
    /run/x\x0aINFO all is well
    """
    return _UNSAFE.sub(_visible, text)


def escape_address(address: object) -> str:
    """A peer's or our own address on one line: ``host:port``, ``[host]:port``, a path, ``@name`` (abstract), or
    ``unnamed`` where there is none, as for most clients of Unix sockets."""
    if not address:
        return "unnamed"
    if isinstance(address, tuple) and len(address) >= 2:
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return escape(f"{host}:{address[1]}")
    if isinstance(address, bytes):
        text = address.decode("utf-8", "surrogateescape")
        return escape(f"@{text[1:]}" if text.startswith("\0") else text)
    return escape(str(address))


def escape_error(error: BaseException) -> str:
    """The name and message of ``error`` on one line; long messages are cut.  Never raises an `Exception`."""
    if isinstance(error, RemoteError):
        name, message = error.kind, error.text
    else:
        name, message = _name(error), _message(error)
    return escape(f"{name}: {_cut(message)}" if message else name)


def escape_traceback(error: BaseException) -> str:
    """The traceback of ``error``, its causes, notes and group members included: only its own line breaks are real.

    The layout is that of `traceback.format_exception`, without the break at the end.  Of a `RemoteError` it is the
    traceback of the other process; what broke the lines there can no longer be told, so each is marked with ``|``.
    """
    return "\n".join(_lines(error, MAX_DEPTH))


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _name(error: BaseException) -> str:
    kind = type(error)
    home = kind.__module__
    return kind.__qualname__ if home in ("builtins", "__main__") else f"{home}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<no message: str() of this exception raises>"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} [and {len(text) - MAX_MESSAGE} characters more]"


def _lines(error: BaseException, depth: int) -> Iterator[str]:
    for link, joint in _chain(error):
        if isinstance(link, RemoteError) and link.traceback:
            yield from (f"| {escape(line)}" for line in link.traceback.rstrip("\n").split("\n"))
        else:
            yield from _link_lines(link, depth)
        if joint:
            yield from ("", joint, "")


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """The first cause first, each with what joins it to the next."""
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    joint = ""
    while link is not None and id(link) not in seen and len(links) < MAX_CHAIN:
        seen.add(id(link))
        links.append((link, joint))
        if link.__cause__ is not None:
            link, joint = link.__cause__, _CAUSED
        else:
            link, joint = None if link.__suppress_context__ else link.__context__, _DURING
    return links[::-1]


def _link_lines(error: BaseException, depth: int) -> Iterator[str]:
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield from _frame_lines(traceback.extract_tb(error.__traceback__))
    yield escape_error(error)
    for note in getattr(error, "__notes__", None) or ():
        yield escape(_cut(str(note)))
    if isinstance(error, BaseExceptionGroup):
        yield from _member_lines(error, depth)


def _frame_lines(stack: traceback.StackSummary) -> Iterator[str]:
    for frame in stack:  # a code object may be named anything, and a line break in a name would become one of ours
        frame.filename = frame.filename.replace("\n", "?")
        frame.name = frame.name.replace("\n", "?")
    for entry in stack.format():
        yield from map(escape, entry.rstrip("\n").split("\n"))


def _member_lines(group: BaseExceptionGroup[BaseException], depth: int) -> Iterator[str]:
    total = len(group.exceptions)
    shown = group.exceptions[:MAX_MEMBERS] if depth else ()
    for number, member in enumerate(shown, 1):
        yield f"  +- {number} of {total}"
        yield from (f"  | {line}" for line in _lines(member, depth - 1))
    if len(shown) < total:
        yield f"  +- {total - len(shown)} more"
