"""One loop that holds every connection; only complete messages cost work."""

from __future__ import annotations

from _thread import get_ident
from typing import ClassVar

from attrs import define, field

from tricorn.checks import optional, seconds, whole_number
from tricorn.contracts import Dispatcher, Intake, Shape
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, StateError
from tricorn.message_loop import MessageLoop
from tricorn.peers import Limits

__all__ = ["Selector"]


@define(eq=False)
class Selector(Dispatcher):
    """Every connection in one table, in one thread; a message handler is called for each message that is complete.

    A connection costs a place in the table and no thread.  What has arrived of a message waits there too, so a slow or
    silent peer holds up nobody.  ``then``: the dispatcher that complete messages go to, any that takes single jobs;
    without one the handler's function is called in the loop, and holds everybody up while it runs: right for functions
    that compute for microseconds, wrong for those that wait.  The replies to one peer are in the order of its
    messages: it has one message in ``then`` at a time.

    The loop itself ends peers that do not keep to the server's `~tricorn.deadlines.Deadlines`.  ``high_water``: bytes
    of output that a peer has not taken, above which nothing more is read from it.  ``blocked_after``: seconds after
    which a function that blocks the loop is told of, with its stack (`~tricorn.events.LoopBlocked`); 1, ``None`` for
    never, which saves a thread.

    Message handlers only (`tricorn.handlers.message`).  It is the "explicit table of partially finished requests" that
    the documentation of `socketserver` leaves to its reader.
    """

    shapes: ClassVar[frozenset[Shape]] = frozenset({Shape.MESSAGE})
    needs_descriptors: ClassVar[bool] = True
    minds_deadlines: ClassVar[bool] = True
    instead: ClassVar[str] = "a message handler (tricorn.handlers.message), or ThreadPool(park_idle=True)"

    then: Dispatcher | None = field(default=None, metadata={"help": "dispatcher that complete messages go to"})
    high_water: int = field(
        default=262_144, kw_only=True, validator=whole_number(0), metadata={"help": "bytes of output kept for a peer"}
    )
    blocked_after: float | None = field(
        default=1.0,
        kw_only=True,
        validator=optional(seconds),
        metadata={"help": "seconds until a blocked loop is told of"},
    )
    _loop: MessageLoop | None = field(default=None, init=False, repr=False)
    #: Threads of servers that must not have it, and end themselves now.
    _turned_away: set[int] = field(factory=set, init=False, repr=False)

    @then.validator
    def _takes_single_jobs(self, attribute: object, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, Dispatcher):
            raise ConfigurationError(f"Selector(then={value!r}): then must be a dispatcher, such as ThreadPool(16)")
        if value.needs_descriptors or type(value).dispatch is Dispatcher.dispatch:
            why = "waits for connections itself" if value.needs_descriptors else "takes no single jobs"
            raise ConfigurationError(
                f"Selector(then={value!r}): {type(value).__name__} {why}; give a dispatcher that takes one message "
                "after the other, such as ThreadPool(16), Thread(), Fork() or ProcessPool()"
            )

    @property
    def in_place(self) -> bool:  # type: ignore[override]
        """True without ``then``: the handler runs in the serving thread."""
        return self.then is None

    @property
    def forks(self) -> bool:  # type: ignore[override]
        """As ``then``."""
        return self.then is not None and self.then.forks

    def misfit(self, handler: object) -> str:
        """A conversation's state cannot be in another process."""
        if self.forks and "state" in getattr(handler, "extras", ()):
            return (
                f"{handler!r} keeps state from one message to the next, and {type(self.then).__name__} runs each in a "
                "process of its own; use Selector(then=ThreadPool()), or keep the state in a database"
            )
        return ""

    def serve(self, intake: Intake) -> None:
        """Run the loop until the intake ends; without ``then`` until the last connection has ended, too."""
        if self._loop is not None:
            self._turned_away.add(get_ident())
            raise StateError("this Selector serves already; give each server one of its own")
        limits = Limits(intake.crew.deadlines, self.high_water)
        self._loop = loop = MessageLoop(intake, self.then, limits, self.blocked_after if self.in_place else None)
        loop.loop_watch.start()
        try:
            loop.run(lambda: intake.stopped and not (self.in_place and loop.busy))
        except BaseException:
            loop.abandon()
            raise
        finally:
            loop.loop_watch.stop()
            if self.in_place:
                loop.close()

    def join(self, deadline: Deadline) -> bool:
        """Serve on until every connection has ended, or until ``deadline``."""
        loop = self._loop
        if loop is None or get_ident() in self._turned_away:
            return True
        if self.then is None:
            return loop.finished.wait(deadline.remaining())
        loop.hear()
        loop.run(lambda: not loop.busy or deadline.expired, deadline)
        return not loop.busy and self.then.join(deadline)

    def reload(self) -> None:
        """What ``then`` does."""
        if self.then is not None:
            self.then.reload()

    def cancel(self) -> None:
        """End every connection."""
        if get_ident() in self._turned_away:
            return
        if self._loop is not None:
            self._loop.cancel()
        if self.then is not None:
            self.then.cancel()

    def close(self) -> None:
        """Give the descriptors back, and those of ``then``."""
        if get_ident() in self._turned_away:
            self._turned_away.remove(get_ident())
            return
        loop, self._loop = self._loop, None
        if self.then is not None:
            self.then.close()
            if loop is not None:
                loop.close()
