"""Telling the shapes of handlers apart, and making one call of each.

Nothing is guessed: a class is called the documented way, ``(request, client_address, server)``, and anything else that
can be called is called with the one request.  All the looking happens once, before the start; what is left for
each request is a single closure.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from tricorn.contracts import Kind, Shape
from tricorn.errors import ConfigurationError
from tricorn.kinds import Traits

if TYPE_CHECKING:
    from tricorn.contracts import Request
    from tricorn.datagram import Datagram

__all__ = ["CALLERS", "ServerView", "adapt", "kinds_of", "name_of", "shape_of"]

T = TypeVar("T")

# Looking a member up on its Enum costs 40 ns, a global 5.
_STREAM, _DATAGRAM = Kind.STREAM, Kind.DATAGRAM

_EXPECTED = {
    Shape.CLASS: ("request", "client_address", "server"),
    Shape.FUNCTION: ("request",),
    Shape.MESSAGE: ("request",),
    Shape.COROUTINE: ("request",),
}

_SIGNATURE_OPTIONS: dict[str, Any] = {}
if sys.version_info >= (3, 14):  # there, annotations are evaluated when read, which fails for typing-only imports
    import annotationlib

    _SIGNATURE_OPTIONS["annotation_format"] = annotationlib.Format.FORWARDREF


def shape_of(handler: object) -> Shape:
    """How ``handler`` is to be called; a `functools.partial` has the shape of what is inside it.

    Raises `ConfigurationError` for something that cannot be called, and for a generator function, whose body a call
    would not run.
    """
    inner = _innermost(handler)
    if isinstance(inner, type):
        return Shape.CLASS
    if _published(inner, "__tricorn_message__") is not None:
        return Shape.MESSAGE
    if not callable(inner):
        raise ConfigurationError(f"{name_of(inner)} is no handler: {_why_not(inner)}")
    if _is(inspect.iscoroutinefunction, inner):
        return Shape.COROUTINE
    if _is(inspect.isgeneratorfunction, inner) or _is(inspect.isasyncgenfunction, inner):
        raise ConfigurationError(f"{name_of(inner)} is no handler: it is a generator, so calling it would run nothing")
    return Shape.FUNCTION


def kinds_of(handler: object) -> frozenset[Kind]:
    """What ``handler`` can serve.

    A class of `tricorn.handlers` says so in its `Traits`, any other handler by an attribute ``tricorn_kinds``.  Of the
    standard library's classes, ``StreamRequestHandler`` and its subclasses (all of `http.server`'s) serve streams
    only, ``DatagramRequestHandler`` and its subclasses datagrams only.  Everything else is taken to serve all kinds.
    """
    inner = _innermost(handler)
    said = _published(inner, "tricorn_kinds")
    if said is not None:
        return frozenset(said)
    traits = _published(inner, "_tricorn")
    if isinstance(traits, Traits):
        return traits.kinds
    for name, kind in (("StreamRequestHandler", Kind.STREAM), ("DatagramRequestHandler", Kind.DATAGRAM)):
        base = getattr(sys.modules.get("socketserver"), name, None)
        if isinstance(inner, type) and isinstance(base, type) and issubclass(inner, base):
            return frozenset({kind})
    return frozenset(Kind)


def adapt(handler: Callable[..., Any], server: object) -> Callable[[Request], Any]:
    """The callable that a job calls with its request.

    ``server`` is what request-handler classes see as ``self.server``, see `ServerView`.  A coroutine function is
    returned as it is: the caller awaits its result.  What a function returns is dropped, unless it would have to be
    awaited: that raises `ConfigurationError` in the job.

    Raises `ConfigurationError` now if ``handler`` cannot be called that way.  The result is as safe to share between
    threads as ``handler`` is.
    """
    shape = shape_of(handler)
    _check_arguments(handler, shape)
    if shape is Shape.CLASS:
        return _calling_class(handler, server)
    if shape in (Shape.COROUTINE, Shape.MESSAGE):
        return handler
    return _calling_function(handler)


def name_of(handler: object) -> str:
    """A handler's name for messages: dotted where it has one, else its `repr`."""
    inner = _innermost(handler)
    name = getattr(inner, "__qualname__", None)
    if isinstance(name, str):
        return f"{getattr(inner, '__module__', None) or 'builtins'}.{name}"
    return repr(inner)


class Serving(Protocol):
    """What a `ServerView` needs of a server."""

    @property
    def addresses(self) -> Sequence[object]:
        """Where it is bound; raises `~tricorn.errors.StateError` before that."""
        ...

    def request_stop(self) -> object:
        """Begin to stop; never blocks."""
        ...


class _Computed(Generic[T]):
    """A read-only property until somebody sets the attribute, which then counts: it has no ``__set__``."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, view: None, owner: type) -> _Computed[T]: ...
    @overload
    def __get__(self, view: object, owner: type) -> T: ...
    def __get__(self, view: object | None, owner: type) -> _Computed[T] | T:
        return self if view is None else self._compute(view)


class ServerView:
    """What request-handler classes see as ``self.server``: the documented names that make sense to them.

    One view serves all requests of a server, in any thread.  Set any further attribute to share state between handlers
    (a forked process has its own copy from the fork on); the names below can be overridden the same way.  Stands in
    for a ``socketserver.TCPServer`` or ``http.server.HTTPServer``; no name is ever looked up.
    """

    def __init__(self, server: Serving, handler: object) -> None:
        #: The `Server` itself.
        self.tricorn: Any = server
        #: What was given as the handler, perhaps wrapped in `functools.partial`.
        self.RequestHandlerClass: Any = handler

    @_Computed
    def server_address(self) -> Any:
        """The first address of the server, as the kernel gives it.

        Raises `~tricorn.errors.StateError` before it is bound.
        """
        return self.tricorn.addresses[0]

    @_Computed
    def server_name(self) -> str:
        """The host of `server_address` as it was bound, for HTTP and WSGI; ``localhost`` for a Unix socket."""
        return str(_host_and_port(self.server_address)[0])

    @_Computed
    def server_port(self) -> int:
        """The port of `server_address`; 0 for a Unix socket."""
        port: int = _host_and_port(self.server_address)[1]
        return port

    def shutdown(self) -> None:
        """Ask the server to stop, and return at once: from a handler too, and as often as you like."""
        self.tricorn.request_stop()


class _ReplySocket:
    """The shared socket of a datagram, seen from its handler: replies leave from the address that the client used.

    A sender without a name gets none.  All but `sendto` is the real socket.
    """

    __slots__ = ("_datagram",)

    def __init__(self, datagram: Datagram) -> None:
        self._datagram = datagram

    @property
    def datagram(self) -> Datagram:
        """The packet itself, with what the kernel told of it."""
        return self._datagram

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """`socket.socket.sendto`; to the datagram's own sender by way of `Datagram.reply`."""
        datagram = self._datagram
        if flags_and_address[-1:] == (datagram.peer,) and not any(flags_and_address[:-1]):
            return datagram.reply(data)
        sent: int = datagram.socket.sendto(data, *flags_and_address)
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._datagram.socket, name)


def _calling_class(handler: Callable[..., Any], server: object) -> Callable[[Any], None]:
    def serve(request: Any) -> None:
        kind = request.kind
        if kind is _STREAM:
            handler(request.socket, request.peer, server)
        elif kind is _DATAGRAM:
            handler((request.data, _reply_socket(request)), request.peer, server)
        else:
            handler(request.value, request.peer, server)

    return serve


def _reply_socket(datagram: Datagram) -> Any:
    if not datagram.control and datagram.peer is not None and not datagram.ancillary and not datagram.truncated:
        return datagram.socket
    return _ReplySocket(datagram)


def _calling_function(handler: Callable[..., Any]) -> Callable[[Any], None]:
    def serve(request: Any) -> None:
        result = handler(request)
        if result is not None:
            _refuse_awaitable(handler, result)

    return serve


#: The code of what calls classes and functions, by which a stack shows that it is inside one.
CALLERS = frozenset(
    code
    for maker in (_calling_class, _calling_function)
    for code in maker.__code__.co_consts
    if isinstance(code, CodeType)
)


def _refuse_awaitable(handler: object, result: object) -> None:
    if not (inspect.isawaitable(result) or inspect.isasyncgen(result)):
        return
    close = getattr(result, "close", None)
    if close is not None:
        close()
    raise ConfigurationError(
        f"{name_of(handler)} returned {type(result).__name__} {getattr(result, '__qualname__', '')!r}, which nothing "
        "awaits here: write the handler itself as 'async def' and serve it with an asyncio strategy"
    )


def _check_arguments(handler: Callable[..., Any], shape: Shape) -> None:
    expected = _EXPECTED[shape]
    if not callable(handler):
        raise ConfigurationError(f"{name_of(handler)} is no handler: {_why_not(handler)}")
    signature = None
    try:
        signature = _signature(handler)
        if signature is not None:
            signature.bind(*expected)
    except TypeError as error:
        shown = "" if signature is None else str(signature)
        raise ConfigurationError(
            f"{name_of(handler)}{shown} cannot be a handler: {error}; "
            f"a {shape.value} is called with ({', '.join(expected)})"
        ) from None


def _signature(handler: Callable[..., Any]) -> inspect.Signature | None:
    """None where there is none to be had, as for some builtins.  TypeError for a partial that can never be called."""
    try:
        return inspect.signature(handler, **_SIGNATURE_OPTIONS)
    except (ValueError, TypeError) as error:
        if isinstance(handler, partial) and _signature(_innermost(handler)) is not None:
            raise TypeError(str(error)) from None
        return None


def _innermost(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def _published(handler: object, name: str) -> Any:
    """An attribute that was really put there: proxies and mocks that answer to any name do not count."""
    return None if inspect.getattr_static(handler, name, None) is None else getattr(handler, name, None)


def _is(test: Callable[[object], bool], handler: object) -> bool:
    """``test`` of the function itself, or of the ``__call__`` of an object's class."""
    return test(handler) or test(getattr(type(handler), "__call__", None))  # noqa: B004 - the function, not whether


def _why_not(thing: object) -> str:
    if isinstance(thing, ModuleType):
        own = thing.__name__.rpartition(".")[2]
        return f"it is a module; did you mean its {own!r}?" if callable(getattr(thing, own, None)) else "it is a module"
    return f"a {type(thing).__name__} cannot be called; give a class, a function, or a coroutine function"


def _host_and_port(address: object) -> tuple[Any, Any]:
    if isinstance(address, tuple) and len(address) >= 2:
        return address[0], address[1]
    return "localhost", 0
