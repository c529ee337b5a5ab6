"""Whether parts fit: asked once, when a server is built."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from tricorn.contracts import Dispatcher, Kind, Shape, Transport
from tricorn.errors import ConfigurationError, IncompatibleParts
from tricorn.handling import kinds_of, shape_of

__all__ = ["check_authenticator", "check_composition"]


def check_authenticator(transports: Sequence[Transport], dispatcher: Dispatcher, authenticate: Any) -> None:
    """Raise `~tricorn.errors.IncompatibleParts` where ``authenticate`` (not ``None``) cannot work, or return."""
    if not callable(authenticate):
        raise ConfigurationError(f"authenticate is {authenticate!r}; allowed: a callable that takes one connection")
    if isinstance(authenticate, type) or inspect.iscoroutinefunction(authenticate):
        hint = f"; did you mean {authenticate.__name__}()?" if isinstance(authenticate, type) else ""
        raise ConfigurationError(f"authenticate is {authenticate!r}, which cannot be called with a connection{hint}")
    if getattr(authenticate, "converses", False) and dispatcher.needs_descriptors:
        raise IncompatibleParts(
            f"{_name(authenticate)} talks to the peer and waits for it, and {_name(dispatcher)} must not wait; "
            f"use {dispatcher.instead}, or TLS with client certificates"
        )
    needed = getattr(authenticate, "needs", None)
    for transport in transports:
        if transport.kind is not Kind.STREAM:
            raise IncompatibleParts(
                f"authenticate looks at connections, and {_name(transport)} yields {transport.kind.value} requests; "
                "use TCP or UnixStream, or let the handler do it"
            )
        if needed is not None and needed not in transport.attests:
            raise IncompatibleParts(
                f"{_name(authenticate)} goes by the peer's {needed}, which connections of {_name(transport)} lack; "
                f"use {_NEEDED.get(needed, 'a transport that has it')}"
            )


_NEEDED = {
    "credentials": "UnixStream",
    "certificate": "TLS with client_certificates='required' and a client_ca",
}


def check_composition(transports: Sequence[Transport], dispatcher: Dispatcher, handler: Any) -> None:
    """Raise `~tricorn.errors.IncompatibleParts` in one sentence that names what would work, or return.

    `~tricorn.errors.ConfigurationError` if something is no part at all.
    """
    for transport in transports:
        if not isinstance(transport, Transport):
            raise ConfigurationError(
                f"the transport is {transport!r}; allowed: a Transport such as TCP('127.0.0.1', 9999), "
                "or a name such as 'tcp://127.0.0.1:9999', or a sequence of these"
            )
    if not isinstance(dispatcher, Dispatcher):
        hint = f"; did you mean {dispatcher.__name__}()?" if isinstance(dispatcher, type) else ""
        raise ConfigurationError(
            f"the dispatcher is {dispatcher!r}; allowed: a Dispatcher such as ThreadPool(workers=16), "
            f"or a name such as 'thread-pool?workers=16'{hint}"
        )
    for transport in transports:
        _check_pair(transport, dispatcher)
    _check_handler(transports, dispatcher, handler)


def _name(part: object) -> str:
    return type(part).__name__


def _check_pair(transport: Transport, dispatcher: Dispatcher) -> None:
    if transport.in_process and dispatcher.forks:
        raise IncompatibleParts(
            f"{_name(dispatcher)} runs requests in other processes, and those of {_name(transport)} exist only in "
            f"this one; use {dispatcher.instead}, or another transport"
        )
    if transport.in_process and dispatcher.needs_descriptors:
        raise IncompatibleParts(
            f"{_name(dispatcher)} waits for descriptors, and requests of {_name(transport)} have none; "
            f"use {dispatcher.instead}, or another transport"
        )
    if transport.in_batches and not (dispatcher.in_place and not dispatcher.needs_descriptors):
        raise IncompatibleParts(
            f"{_name(transport)} is told to take packets in batches, which only a dispatcher that serves them one by "
            f"one in its own thread can use, and {_name(dispatcher)} does not; use Sync, or batch=1"
        )
    if transport.kind not in dispatcher.kinds:
        raise IncompatibleParts(
            f"{_name(dispatcher)} does not serve {transport.kind.value} transports such as {_name(transport)}; "
            f"use {dispatcher.instead}"
        )


def _check_handler(transports: Sequence[Transport], dispatcher: Dispatcher, handler: Any) -> None:
    shape = shape_of(handler)
    if shape not in dispatcher.shapes:
        hint = "a dispatcher that runs an event loop" if shape is Shape.COROUTINE else dispatcher.instead
        if Shape.FUNCTION in dispatcher.shapes:
            hint += ", or a plain function"
        raise IncompatibleParts(
            f"{handler!r} is a {shape.value}, and {_name(dispatcher)} calls only "
            f"{_join(sorted(each.value for each in dispatcher.shapes))}; use {hint}"
        )
    misfit = dispatcher.misfit(handler)
    if misfit:
        raise IncompatibleParts(misfit)
    kinds = kinds_of(handler)
    for transport in transports:
        if transport.kind not in kinds:
            wanted = _join(sorted(kind.value for kind in kinds))
            near = {
                Kind.STREAM: "TCP or UnixStream",
                Kind.DATAGRAM: "UDP or UnixDatagram",
                Kind.ITEM: "a source of items",
            }
            advice = _join([near[kind] for kind in sorted(kinds, key=lambda kind: kind.value)])
            raise IncompatibleParts(
                f"{getattr(handler, '__name__', handler)!r} handles {wanted} requests, and {_name(transport)} yields "
                f"{transport.kind.value} requests; use {advice}"
            )


def _join(words: list[str]) -> str:
    return " and ".join(words)
