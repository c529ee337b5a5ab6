"""An asyncio loop, or uvloop's: coroutine handlers and message handlers, all in the serving thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from typing import ClassVar, Literal

from attrs import define, field

from tricorn.async_serving import AsyncServing
from tricorn.checks import optional, seconds, whole_number
from tricorn.contracts import Dispatcher, Intake, Shape
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, StateError

__all__ = ["Asyncio"]


@define(eq=False)
class Asyncio(Dispatcher):
    """An asyncio loop in the serving thread: a task for each request of a coroutine handler, and message handlers.

    ::

        async def shout(connection):
            async for line in connection:
                await connection.send(line.upper())

        Server(TCP("127.0.0.1", 9999), Asyncio(), shout).serve_forever(signals=True)

    A coroutine handler gets an `~tricorn.async_connection.AsyncConnection`, an
    `~tricorn.async_connection.AsyncDatagram`, or the item.  A message handler is called in the loop when a message is
    complete, without a task.  Whatever does not await holds everybody up: what takes long goes through
    `asyncio.to_thread`.  What handlers leave running, tasks and asynchronous generators, is cancelled when the server
    has stopped.

    ``loop_factory``: what makes the loop, such as ``uvloop.new_event_loop``; ``loop="uvloop"`` is the same by name (the
    extra ``uvloop``), ``"asyncio"`` the standard library's, the default.  ``limit``: the most requests in flight;
    ``None``, the default, leaves it to the server's ``max_connections``.  ``high_water``: bytes of output that a peer
    has not taken, above which `send` waits, and nothing more is read for a message handler.  ``read_ahead``: bytes that
    are taken in before a coroutine asks for them.  ``blocked_after``: seconds after which a step that blocks the loop
    is told of, with its stack (`~tricorn.events.LoopBlocked`); 1, ``None`` for never, which saves a thread.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.COROUTINE, Shape.MESSAGE})
    needs_descriptors: ClassVar[bool] = True
    minds_deadlines: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = field(
        default=None, metadata={"help": "what makes the loop"}
    )
    loop: Literal["asyncio", "uvloop"] = field(default="asyncio", kw_only=True, metadata={"help": "whose loop"})
    limit: int | None = field(
        default=None, kw_only=True, validator=optional(whole_number(1)), metadata={"help": "most requests at once"}
    )
    high_water: int = field(
        default=262_144, kw_only=True, validator=whole_number(0), metadata={"help": "bytes of output kept for a peer"}
    )
    read_ahead: int = field(
        default=65_536, kw_only=True, validator=whole_number(1), metadata={"help": "bytes of input kept for a handler"}
    )
    blocked_after: float | None = field(
        default=1.0,
        kw_only=True,
        validator=optional(seconds),
        metadata={"help": "seconds until a blocked loop is told of"},
    )
    _running: AsyncServing | None = field(default=None, init=False, repr=False)

    @loop_factory.validator
    def _makes_loops(self, attribute: object, value: object) -> None:
        if value is not None and not callable(value):
            raise ConfigurationError(
                f"Asyncio(loop_factory={value!r}): loop_factory must be a callable that makes a loop, such as "
                "uvloop.new_event_loop"
            )

    @loop.validator
    def _known_loop(self, attribute: object, value: object) -> None:
        if value not in ("asyncio", "uvloop"):
            raise ConfigurationError(f"Asyncio(loop={value!r}): loop must be 'asyncio' or 'uvloop'")
        if value == "uvloop" and self.loop_factory is not None:
            raise ConfigurationError("Asyncio(loop_factory=..., loop='uvloop'): give one of the two")
        if value == "uvloop" and find_spec("uvloop") is None:
            raise ConfigurationError("Asyncio(loop='uvloop'): uvloop is not installed; pip install 'tricorn[uvloop]'")

    @property
    def concurrency(self) -> int | None:
        """``limit``."""
        return self.limit

    def make_loop(self) -> asyncio.AbstractEventLoop:
        """A new one."""
        if self.loop_factory is not None:
            return self.loop_factory()
        if self.loop == "asyncio":
            return asyncio.new_event_loop()
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop

    def serve(self, intake: Intake) -> None:
        """Run the loop until the intake has ended, and then the last request.

        Raises `~tricorn.errors.StateError` in a thread that runs an asyncio loop already.
        """
        if self._running is not None:
            raise StateError("this Asyncio serves already; give each server one of its own")
        if asyncio._get_running_loop() is not None:
            raise StateError("Asyncio runs a loop of its own, and this thread runs one already; use Server.start()")
        self._running = running = AsyncServing(
            self.make_loop(), intake, self.read_ahead, self.high_water, self.blocked_after
        )
        running.run()

    def join(self, deadline: Deadline) -> bool:
        """Wait until the loop has ended, which it does after the last request."""
        return self._running is None or self._running.done.wait(deadline.remaining())

    def cancel(self) -> None:
        """Cancel the tasks (`asyncio.CancelledError`), and cut the connections."""
        if self._running is not None:
            self._running.call(self._running.cancel)

    def close(self) -> None:
        """Forget the loop; one that is stuck in a handler ends when that lets it go."""
        running, self._running = self._running, None
        if running is not None and not running.done.is_set():
            running.call(running.loop.stop)
