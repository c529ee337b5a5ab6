"""The handler of the kit: it does what its request says.

It keeps nothing that must be seen elsewhere in memory, so it works in a thread, a greenlet and a forked child alike: it
answers by the request itself, and waits for a file to disappear.
"""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from tricorn.contracts import Kind
from tricorn.testing import bounds

__all__ = ["LETTER", "Obedient", "answer", "read_words"]

#: Set to "base" around the building of a server; every request must see that, whatever another one made of it.
LETTER: ContextVar[str] = ContextVar("tricorn_testing_letter", default="unset")
#: Seconds between two looks at a file.
_LOOK_S = 0.002


def read_words(request: Any) -> list[str]:
    """What the peer said: a line of a stream, a packet, an item."""
    if request.kind is Kind.DATAGRAM:
        text = request.data
    elif request.kind is Kind.ITEM:
        text = request.value
    else:
        text = b""
        while not text.endswith(b"\n"):
            data = request.recv(65536)
            if not data:
                return []
            text += data
    words: list[str] = text.decode("ascii").split()
    return words


def answer(request: Any, text: str) -> None:
    """Say something to the peer."""
    data = text.encode("ascii") + b"\n"
    if request.kind is Kind.STREAM:
        request.send(data)
    else:
        request.reply(data)


class Obedient:
    """A handler function.  ``pause`` is how it waits: `time.sleep`, or what stands for it under an event loop."""

    def __init__(self, gate: str, pause: Callable[[float], object]) -> None:
        self.gate = gate
        self.pause = pause
        #: The server, for the request that stops it.
        self.server: Any = None
        #: The process that gets the signal of `do_signal`.
        self.pid = os.getpid()

    def __call__(self, request: Any) -> None:
        """Read an order and obey."""
        words = read_words(request)
        if words:
            getattr(self, f"do_{words[0]}")(request, *words[1:])

    def do_echo(self, request: Any, text: str) -> None:
        """Answer the same."""
        answer(request, text)

    def do_raise(self, request: Any, name: str) -> None:
        """Raise an exception of `builtins`."""
        raise getattr(builtins, name)("as it was told")

    def do_return(self, request: Any) -> None:
        """Return without an answer."""

    def do_close(self, request: Any) -> None:
        """Close the connection's own socket."""
        request.socket.close()

    def do_die(self, request: Any) -> None:
        """Be killed; only where the request has a process of its own."""
        os.kill(os.getpid(), signal.SIGKILL)

    def do_exit(self, request: Any) -> None:
        """End the process without a word, as a crashing extension would."""
        os._exit(3)

    def do_hold(self, request: Any) -> None:
        """Say that it has begun, wait for the gate to open, say that it is done."""
        answer(request, "held")
        limit = monotonic() + 6 * bounds.BOUND_S  # lest a failed check leaves it behind for ever
        while os.path.exists(self.gate) and monotonic() < limit:
            self.pause(_LOOK_S)
        answer(request, "done")

    def do_linger(self, request: Any) -> None:
        """Wait for more of a request; only for streams."""
        os.write(request.socket.fileno(), b"lingering\n")  # past the socket's notes: as far as it knows, no answer yet
        while request.recv(1):
            pass

    def do_letter(self, request: Any) -> None:
        """Tell the context variable, and change it."""
        answer(request, LETTER.get())
        LETTER.set("scribbled over")

    def do_stop(self, request: Any) -> None:
        """Stop the server, twice, then answer."""
        self.server.request_stop()
        self.server.request_stop()
        answer(request, "stopped")

    def do_signal(self, request: Any) -> None:
        """Send the serving process SIGUSR1, then answer."""
        os.kill(self.pid, signal.SIGUSR1)
        answer(request, "signalled")
