"""The kit's handler once more, as a coroutine: for dispatchers that run event loops."""

from __future__ import annotations

import asyncio
import builtins
import os
import signal
from time import monotonic
from typing import Any

from tricorn.contracts import Kind
from tricorn.testing import bounds
from tricorn.testing.obedient import LETTER

__all__ = ["ObedientCoroutine"]

#: Seconds between two looks at a file.
_LOOK_S = 0.002


class ObedientCoroutine:
    """A coroutine handler that obeys the same orders as `tricorn.testing.obedient.Obedient`.

    It gets what a connection, a datagram or an item is under the dispatcher: with ``recv``, ``send``, ``close`` and
    ``transport``, with ``data`` and ``reply``, with ``value`` and ``reply``.
    """

    def __init__(self, gate: str, kind: Kind) -> None:
        self.gate = gate
        self.kind = kind
        #: The server, for the request that stops it.
        self.server: Any = None

    async def __call__(self, request: Any) -> None:
        """Read an order and obey."""
        words = await self._read_words(request)
        if words:
            await getattr(self, f"do_{words[0]}")(request, *words[1:])

    async def _read_words(self, request: Any) -> list[str]:
        if self.kind is Kind.STREAM:
            text = b""
            while not text.endswith(b"\n"):
                data = await request.recv(65536)
                if not data:
                    return []
                text += data
        else:
            text = request.data if self.kind is Kind.DATAGRAM else request.value
        return [word.decode("ascii") for word in text.split()]

    async def _answer(self, request: Any, text: str) -> None:
        data = text.encode("ascii") + b"\n"
        if self.kind is Kind.STREAM:
            await request.send(data)
        elif self.kind is Kind.DATAGRAM:
            await request.reply(data)
        else:
            request.reply(data)

    async def do_echo(self, request: Any, text: str) -> None:
        """Answer the same."""
        await self._answer(request, text)

    async def do_raise(self, request: Any, name: str) -> None:
        """Raise an exception of `builtins`."""
        raise getattr(builtins, name)("as it was told")

    async def do_return(self, request: Any) -> None:
        """Return without an answer."""

    async def do_close(self, request: Any) -> None:
        """Close the connection."""
        await request.close()

    async def do_hold(self, request: Any) -> None:
        """Say that it has begun, wait for the gate to open, say that it is done."""
        await self._answer(request, "held")
        limit = monotonic() + 6 * bounds.BOUND_S
        while os.path.exists(self.gate) and monotonic() < limit:  # noqa: ASYNC110, ASYNC240 - the gate is a file
            await asyncio.sleep(_LOOK_S)
        await self._answer(request, "done")

    async def do_linger(self, request: Any) -> None:
        """Wait for more of a request; only for streams."""
        os.write(request.transport.get_extra_info("socket").fileno(), b"lingering\n")  # past the notes
        while await request.recv(1):
            pass

    async def do_letter(self, request: Any) -> None:
        """Tell the context variable, and change it."""
        await self._answer(request, LETTER.get())
        LETTER.set("scribbled over")

    async def do_stop(self, request: Any) -> None:
        """Stop the server, twice, then answer."""
        self.server.request_stop()
        self.server.request_stop()
        await self._answer(request, "stopped")

    async def do_signal(self, request: Any) -> None:
        """Send this process SIGUSR1, then answer."""
        os.kill(os.getpid(), signal.SIGUSR1)
        await self._answer(request, "signalled")
