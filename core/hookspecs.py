"""The hooks of the pluggy project ``tricorn``: how an installed distribution offers parts by name.

A plugin is a module (or an object) with marked functions, named by an entry point of the group ``tricorn``::

    # pyproject.toml                          # acme/parts.py
    [project.entry-points.tricorn]            from tricorn.hookspecs import hookimpl
    acme = "acme.parts"                       from tricorn.parts import DispatcherPart

                                              @hookimpl
                                              def tricorn_dispatchers():
                                                  yield DispatcherPart("acme", "acme.loop:Loop")

Keep that module light: it is imported whenever any part is asked for by name.  What it offers is imported later, and
only for whoever asks for it.  No hook runs while a server serves, and none at all where parts are passed as objects.
"""

from __future__ import annotations

from collections.abc import Iterable

from pluggy import HookimplMarker, HookspecMarker

from tricorn.parts import DispatcherPart, HandlerPart, TransportPart, WrapperPart

__all__ = [
    "hookimpl",
    "hookspec",
    "tricorn_dispatchers",
    "tricorn_handlers",
    "tricorn_transports",
    "tricorn_wrappers",
]

hookspec = HookspecMarker("tricorn")
#: Marks a function of a plugin as the implementation of the hook it is named after.
hookimpl = HookimplMarker("tricorn")


@hookspec
def tricorn_transports() -> Iterable[TransportPart]:
    """The transports this plugin offers.

    Runs once in a process, when a part is first asked for by name or the parts are listed, in the thread that asks.
    What it raises costs this hook's parts, and nobody else's.
    """
    raise NotImplementedError


@hookspec
def tricorn_wrappers() -> Iterable[WrapperPart]:
    """What this plugin offers to put around transports.  Runs when `tricorn_transports` does, after it."""
    raise NotImplementedError


@hookspec
def tricorn_dispatchers() -> Iterable[DispatcherPart]:
    """The dispatchers this plugin offers.  Runs when `tricorn_transports` does, after it."""
    raise NotImplementedError


@hookspec
def tricorn_handlers() -> Iterable[HandlerPart]:
    """The handlers this plugin offers.  Runs when `tricorn_transports` does, last."""
    raise NotImplementedError
