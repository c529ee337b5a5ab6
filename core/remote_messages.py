"""Messages that are worked on elsewhere, on another thread, in another process or on another machine: what travels.

There: a handler, by name where it has one, one message, and where it came from.  Back: an `Answer`, the replies framed
already, and what the handler's function raised.  The socket, the conversation and its state stay where they are.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

from attrs import define, field, frozen

from tricorn.errors import IncompatibleParts, RemoteError
from tricorn.wakeup import wait_readable

__all__ = ["Answer", "Named", "Origin", "attend_parent", "packed", "refuse_state", "work"]


@frozen
class Origin:
    """What a handler's function may ask for besides the message, as far as it travels."""

    peer: object = None
    identity: object = None


@define(eq=False)
class Answer:
    """What came of one message: the framed replies, those before a failure too, and the failure.

    Pickling one never fails, nor does unpickling: an ``error`` that cannot travel arrives as a `RemoteError`.
    """

    reply: bytes
    error: BaseException | None = None
    #: Where it was worked on, for people.
    where: str = field(factory=lambda: f"process {os.getpid()}")

    def __reduce__(self) -> tuple[Any, ...]:
        if self.error is None:
            return Answer, (self.reply, None, self.where)
        lines = "".join(traceback.format_exception(self.error))
        kind = type(self.error).__name__
        return _arrived, (self.reply, self.where, _packed(self.error), kind, _said(self.error), lines)


def _packed(error: BaseException) -> bytes | None:
    """``error`` as bytes if it comes out of them again as what it was, or ``None``."""
    try:
        packed = pickle.dumps(error)
        return packed if type(pickle.loads(packed)) is type(error) else None  # noqa: S301 - our own
    except Exception:
        return None


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<it cannot be shown>"


def _arrived(reply: bytes, where: str, packed: bytes | None, kind: str, text: str, lines: str) -> Answer:
    error: BaseException = RemoteError(kind, text, lines)
    if packed is not None:
        try:
            error = pickle.loads(packed)  # noqa: S301 - as the executor itself does with all that comes back
        except Exception:
            pass  # its class is there and not here: the text will do
    error.add_note(f"raised in {where}:\n{lines}")
    return Answer(reply, error, where)


def work(handler: Any, message: Any, origin: Origin) -> Answer:
    """Answer one message.  This is what is submitted; it raises nothing.

    ``handler``: the handler itself, or what `packed` made of it, which is opened here so that a worker survives one
    that it cannot find.
    """
    try:
        if isinstance(handler, bytes):
            handler = _unpacked(handler)
        conversation = handler.converse(origin)
        reply = conversation.answer(message)
    except BaseException as error:
        return Answer(b"", error)
    return Answer(reply, conversation.error)


@lru_cache(maxsize=64)
def _unpacked(packed: bytes) -> Any:
    handler = pickle.loads(packed)  # noqa: S301 - as the executor itself does with all that it sends
    return handler.find() if isinstance(handler, Named) else handler


@frozen
class Named:
    """A handler by its module and name, for workers that have the same modules, and the same ``__main__``."""

    module: str
    name: str

    def find(self) -> Any:
        """The handler itself.  Raises `AttributeError` or `ImportError` where it is not there."""
        found: Any = sys.modules.get(self.module) or import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found


def packed(handler: Any, dispatcher: str, *, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """``handler`` as bytes, by name where it has one.  ``dumps`` is the pickler of the pool, if it has its own.

    Raises `~tricorn.errors.IncompatibleParts` for a handler that cannot be sent.  One of the main module goes by its
    name with the plain pickler: `multiprocessing` gives its processes that module.
    """
    try:
        return dumps(_named(handler) if dumps is pickle.dumps else handler)
    except Exception as error:
        raise IncompatibleParts(
            f"{handler!r} cannot be sent to another process ({error}), as {dispatcher} has to; "
            "define it at the top level of a module that can be imported, or use a pool of threads"
        ) from error


def _named(handler: Any) -> Any:
    if getattr(handler, "__module__", None) != "__main__":
        return handler
    reference = Named("__main__", handler.__qualname__)
    try:
        return reference if reference.find() is handler else handler
    except AttributeError:
        return handler


def refuse_state(handler: Any, dispatcher: str) -> None:
    """Raise `~tricorn.errors.IncompatibleParts` for a message handler that keeps state between messages."""
    if "state" in getattr(handler, "extras", ()):
        raise IncompatibleParts(
            f"{handler!r} takes the conversation's state, and {dispatcher} works on each message where there is room: "
            "state does not travel; use Selector() or ThreadPool(), or leave the parameter 'state' out"
        )


def attend_parent() -> None:
    """For a worker process of our own: it ends when its parent does, by whatever cause, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    wait: Callable[[], object]
    if parent is not None and parent.sentinel is not None:
        wait = parent.join
    elif hasattr(os, "pidfd_open"):  # loky's: a direct child
        wait = partial(wait_readable, os.pidfd_open(os.getppid()), None)
    else:
        return
    threading.Thread(target=_end_after, args=(wait,), name="tricorn-parent", daemon=True).start()


def _end_after(wait: Callable[[], object]) -> None:
    wait()
    os._exit(0)
