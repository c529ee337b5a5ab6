"""The handlers that come with Tricorn, offered the way everybody's are."""

from __future__ import annotations

from collections.abc import Iterator

from tricorn.hookspecs import hookimpl
from tricorn.parts import HandlerPart

__all__ = ["tricorn_handlers"]


@hookimpl
def tricorn_handlers() -> Iterator[HandlerPart]:
    """Those that are useful to try a server out."""
    yield HandlerPart("echo", "tricorn.handlers.echo:echo")
