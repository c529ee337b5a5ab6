"""`message`: a handler from a function that gets one message and returns the reply."""

from __future__ import annotations

import inspect
import socket
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from tricorn.errors import ConfigurationError, FramingError
from tricorn.kinds import Kind
from tricorn.messages import LINGER_BYTES, LINGER_S, Conversation, Framing

__all__ = ["MessageHandler", "message"]

_RECV_BYTES = 65536
#: What a function may ask for by the name of a parameter, besides the message.
_EXTRAS = ("peer", "state", "identity")


def message(framing: Framing, *, state: Callable[[], Any] = dict) -> Callable[[Callable[..., Any]], MessageHandler]:
    r"""Make a handler of a function from message to reply.

    ::

        @message(Lines())
        def shout(line):
            return line.upper()

    The function is called with one message, as bytes, and returns the reply as bytes, ``None`` for no reply, or several
    to iterate over; a generator will do.  Parameters with these names are filled in besides: ``peer``, the peer's
    address; ``identity``, what the authenticator found; ``state``, an object of the conversation's own, made by
    ``state()`` when it begins, a dict by default.

    The handler runs under every dispatcher and over every transport.  On a stream the messages of one peer are served
    one after the other, each by a call; a datagram is decoded by itself, and its replies leave in one packet; an item's
    value is a message as it is.  Raises `ConfigurationError` for what is no framing, or a function that cannot be
    called so.
    """
    if not isinstance(framing, Framing):
        raise ConfigurationError(f"message({framing!r}): a framing is needed, such as Lines() or LengthPrefixed()")

    def decorate(function: Callable[..., Any]) -> MessageHandler:
        return MessageHandler(framing, function, state)

    return decorate


class MessageHandler:
    """A function with a framing around it; made by `message`.  Safe to share between threads as the function is."""

    __tricorn_message__ = True
    tricorn_kinds = frozenset(Kind)

    def __init__(self, framing: Framing, function: Callable[..., Any], state: Callable[[], Any]) -> None:
        self.framing = framing
        #: The function itself.
        self.function = function
        self._state = state
        #: Which of ``peer``, ``state`` and ``identity`` it wants.
        self.extras = _extras_of(function)
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)
        self.__module__ = getattr(function, "__module__", __name__)
        self.__doc__ = function.__doc__

    def __repr__(self) -> str:
        return f"<message handler {self.__module__}.{self.__qualname__}, {self.framing!r}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By name where it has one, so that a process pool can find it; else its parts, for picklers that can."""
        if _found_by_name(self):
            return self.__qualname__
        return MessageHandler, (self.framing, self.function, self._state)

    def converse(self, request: Any) -> Conversation:
        """Begin a conversation; no I/O."""
        return Conversation(self, self._call_for(request) if self.extras else self.function)

    def _call_for(self, request: Any) -> Callable[[Any], object]:
        given = {name: getattr(request, name, None) for name in self.extras if name != "state"}
        if "state" in self.extras:
            given["state"] = self._state()
        return partial(self.function, **given)

    def __call__(self, request: Any) -> None:
        """Serve ``request`` with blocking calls; raises what the function raises, and `FramingError`."""
        if request.kind is Kind.STREAM:
            self._serve_stream(request)
        elif request.kind is Kind.DATAGRAM:
            self._serve_datagram(request)
        else:
            self._serve_item(request)

    def _serve_stream(self, connection: Any) -> None:
        conversation = connection.memo or self.converse(connection)
        sock = connection.socket
        while True:
            data = sock.recv(_RECV_BYTES)
            for replies in conversation.exchange(data):
                if replies:
                    sock.sendall(replies)
            if conversation.error is not None:
                if isinstance(conversation.error, FramingError):
                    if not connection.draining:
                        _linger(sock)
                    sock.fault = conversation.error
                raise conversation.error
            if not data:
                return
            _note_progress(sock, conversation)
            if connection.parkable:
                connection.memo = conversation
                connection.park()
                return

    def _serve_datagram(self, datagram: Any) -> None:
        conversation = self.converse(datagram)
        reply = conversation.respond(datagram.data)
        if conversation.error is None:
            reply += conversation.finish(packet=True)
        if reply:
            datagram.reply(reply)
        if conversation.error is not None:
            if isinstance(conversation.error, FramingError):
                datagram.fault = conversation.error
            raise conversation.error

    def _serve_item(self, item: Any) -> None:
        conversation = getattr(item, "conversation", None) or self.converse(item)
        reply, error = conversation.work(item.value)
        if reply:
            answer = getattr(item, "reply", None)
            if answer is None:
                raise TypeError(f"the handler returned {reply!r:.100}, but an item has nobody to reply to; return None")
            answer(reply)
        if error is not None:
            raise error


def _note_progress(sock: Any, conversation: Conversation) -> None:
    """A message that has no reply is over as well; for a drain, and for the deadlines."""
    if getattr(sock, "engaged", False):
        if conversation.idle:
            sock.engaged = False
        elif conversation.advanced:
            sock._engage()


def _linger(sock: Any) -> None:
    """End our side, and read and drop for a while what still comes, so that closing does not reset the connection under
    the last words: RFC 9112, section 9.6."""
    until = monotonic() + LINGER_S
    dropped = 0
    try:
        sock.shutdown(socket.SHUT_WR)
        while dropped <= LINGER_BYTES and (left := until - monotonic()) > 0:
            sock.settimeout(left)
            data = sock.recv(_RECV_BYTES)
            if not data:
                return
            dropped += len(data)
    except OSError:
        pass  # silent for so long, or gone


def _extras_of(function: Callable[..., Any]) -> tuple[str, ...]:
    if not callable(function):
        raise ConfigurationError(f"message(...) was put on {function!r}, which cannot be called")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__} is a coroutine function; a message handler's function returns the reply itself. "
            "For awaiting, write 'async def handler(connection)' and serve it with Asyncio"
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell: one argument, then
        return ()
    extras = tuple(each.name for each in parameters[1:] if each.name in _EXTRAS)
    try:
        inspect.signature(function).bind("message", **dict.fromkeys(extras))
    except TypeError as error:
        raise ConfigurationError(
            f"{getattr(function, '__qualname__', function)}{inspect.signature(function)} cannot be a message handler: "
            f"{error}; it is called with the message, and by name with any of {', '.join(_EXTRAS)}"
        ) from None
    return extras


def _found_by_name(handler: MessageHandler) -> bool:
    found: Any = sys.modules.get(handler.__module__)
    for name in handler.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is handler and handler.__module__ != "__main__"
