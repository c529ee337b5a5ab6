"""A dispatcher that sends each request to one of several others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import iscoroutinefunction
from typing import Any

from tricorn.checks import refuse_option
from tricorn.contracts import Dispatcher, Intake, Job, Kind, Shape
from tricorn.deadline import Deadline
from tricorn.errors import ConfigurationError, IncompatibleParts, NoRoute
from tricorn.forking import refuse_if_threaded
from tricorn.peeking import check_epoll
from tricorn.switchboard import Switchboard
from tricorn.wording import closest, quoted

__all__ = ["FIRST_BYTES_TIMEOUT_S", "MAX_PEEK_BYTES", "Route"]

#: Default seconds for which a connection's first bytes are waited for.
FIRST_BYTES_TIMEOUT_S = 5.0
#: The most first bytes that can be asked for: a socket holds at least as many unread, by default (tcp(7), tcp_rmem).
MAX_PEEK_BYTES = 65536
_MAX_SECONDS = 365 * 24 * 3600


class Route(Dispatcher):
    """``choose(request)`` names the dispatcher that serves this one request: light ones in place, heavy ones elsewhere.

    ::

        def choose(connection):
            return "heavy" if peek(connection, 4).startswith(b"sort") else "light"

        Route(choose, peek=4, light=Sync(), heavy=Fork())

    ``choose`` is called on the serving thread, before the request is opened, so it must not block.  It may look at
    ``request.peer``, at a datagram's ``data``, at an item's ``value``, and with `tricorn.peeking.peek` at the first
    bytes of a connection, which the handler then reads as if nobody had looked.  SNI and ALPN are read out of those by
    `tricorn.client_hello.read_client_hello`.

    ``peek``
        How many first bytes of a connection ``choose`` wants to see, up to 65,536; with 0, the default, it is asked at
        once.  Else it is asked when there is at least one, and while it returns ``None``, which says that it cannot
        tell yet, again whenever more have come.  Connections wait for that in a table, not on a thread.
    ``first_bytes_timeout``
        Seconds after which ``choose`` is asked a last time, with what there is (perhaps nothing: in some protocols the
        server speaks first); 5 by default.  The same when ``peek`` bytes are there, or the peer sends no more.
    every other keyword
        A dispatcher that takes single jobs, under the name that ``choose`` returns.  A `Route` may be among them: its
        ``choose`` is asked next.

    A request is refused, with the reason, where ``choose`` raises, returns a name that nobody has, or ``None`` at last;
    the server lives on.  A dispatcher that is full does not hold up the others: what was sent to it waits here.  At
    the end, connections that have sent nothing are closed at once, without the handler.

    It serves what all its dispatchers can.  With one that runs jobs ``in_place`` nothing else happens meanwhile, as
    ever.  One that forks cannot be beside one that has threads: `~tricorn.errors.IncompatibleParts`.  Replaces
    the advice of `socketserver`'s documentation to process part of a request in place, and to fork depending on its
    data.
    """

    def __init__(
        self,
        /,
        choose: Callable[[Any], str | None],
        *,
        peek: int = 0,
        first_bytes_timeout: float = FIRST_BYTES_TIMEOUT_S,
        **dispatchers: Dispatcher,
    ) -> None:
        self.choose = choose
        self.peek = peek
        self.first_bytes_timeout = first_bytes_timeout
        self.dispatchers = dispatchers
        self._check()
        leaves = self._leaves()
        self.forks = any(each.forks for each in leaves)  # type: ignore[misc]
        self.in_place = any(each.in_place for each in leaves)  # type: ignore[misc]
        self._waits = any(route.peek for route in self._routes())
        if self._waits:
            check_epoll(f"Route(peek={peek})")
        self.needs_descriptors = self._waits or any(each.needs_descriptors for each in leaves)  # type: ignore[misc]
        self._check_together(leaves)
        self._board: Switchboard | None = None

    def __repr__(self) -> str:
        name = getattr(self.choose, "__qualname__", repr(self.choose))
        options = f", peek={self.peek}" if self.peek else ""
        return f"Route({name}{options}, {', '.join(f'{key}={each!r}' for key, each in self.dispatchers.items())})"

    # -- what it is made of

    def _check(self) -> None:
        if not callable(self.choose) or iscoroutinefunction(self.choose):
            refuse_option(self, "choose", self.choose, "a function that takes one request and returns a name at once")
        if isinstance(self.peek, bool) or not isinstance(self.peek, int) or not 0 <= self.peek <= MAX_PEEK_BYTES:
            refuse_option(self, "peek", self.peek, f"a whole number of bytes from 0 to {MAX_PEEK_BYTES}")
        seconds = self.first_bytes_timeout
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _MAX_SECONDS:
            refuse_option(self, "first_bytes_timeout", seconds, f"seconds, above 0 and up to {_MAX_SECONDS:,}")
        if not self.dispatchers:
            raise ConfigurationError(
                "Route has no dispatcher to send anything to; give it some by name: Route(choose, light=Sync(), ...)"
            )
        for name, dispatcher in self.dispatchers.items():
            self._check_single(name, dispatcher)

    def _check_single(self, name: str, dispatcher: object) -> None:
        if not isinstance(dispatcher, Dispatcher):
            hint = f"; did you mean {dispatcher.__name__}()?" if isinstance(dispatcher, type) else ""
            raise ConfigurationError(
                f"Route({name}={dispatcher!r}): every name must stand for a dispatcher such as ThreadPool(){hint}"
            )
        if type(dispatcher).dispatch is Dispatcher.dispatch:
            raise IncompatibleParts(
                f"Route({name}={dispatcher!r}): {type(dispatcher).__name__} only serves all that comes in, and takes "
                "no single requests; use Sync(), Thread(), ThreadPool(), Fork() or ProcessPool()"
            )

    def _check_together(self, leaves: list[Dispatcher]) -> None:
        if not self.kinds or not self.shapes:
            what = "serve no kind of request" if not self.kinds else "call no shape of handler"
            raise IncompatibleParts(f"the dispatchers of {self!r} {what} in common, and each may get any request")
        forking = next((each for each in leaves if each.forks), None)
        threaded = next((each for each in leaves if not each.forks and not each.in_place), None)
        if forking is not None and threaded is not None:
            raise IncompatibleParts(
                f"Route cannot have {type(forking).__name__} beside {type(threaded).__name__}: a child that is forked "
                "in a program with threads inherits locks that nobody releases; beside a dispatcher that forks use "
                "Sync(), or ProcessPool(inner=ThreadPool()), whose threads are in other processes"
            )

    def _routes(self) -> Iterator[Route]:
        yield self
        for each in self.dispatchers.values():
            if isinstance(each, Route):
                yield from each._routes()

    def _leaves(self) -> list[Dispatcher]:
        """The dispatchers that jobs end up at, each once."""
        found = [each for route in self._routes() for each in route.dispatchers.values() if not isinstance(each, Route)]
        return list({id(each): each for each in found}.values())

    @property
    def kinds(self) -> frozenset[Kind]:  # type: ignore[override]
        """What every one of the dispatchers serves."""
        return frozenset.intersection(*(frozenset(each.kinds) for each in self._leaves()))

    @property
    def shapes(self) -> frozenset[Shape]:  # type: ignore[override]
        """How every one of the dispatchers calls handlers."""
        return frozenset.intersection(*(frozenset(each.shapes) for each in self._leaves()))

    @property
    def concurrency(self) -> int | None:
        """The sum of theirs; ``None`` if one has no limit, or if connections wait for their first bytes, which needs
        room for silent ones: then ``max_connections`` is the limit."""
        limits = [each.concurrency for each in self._leaves()]
        known = [limit for limit in limits if limit is not None]
        return None if self._waits or len(known) < len(limits) else sum(known)

    # -- deciding

    def decide(self, job: Job) -> Dispatcher | None:
        """The dispatcher that ``choose`` names for ``job``; ``None`` where it waits for more bytes.

        Raises `~tricorn.errors.NoRoute` for a name that none has, and whatever ``choose`` raises.
        """
        name = self.choose(job.request)
        if name is None and self.peek and job.request.kind is Kind.STREAM:
            return None
        found = self.dispatchers.get(name) if isinstance(name, str) else None
        if found is None:
            hint = closest(name, self.dispatchers) if isinstance(name, str) else ""
            raise NoRoute(f"choose returned {name!r}; known: {quoted(self.dispatchers)}{hint}")
        return found

    # -- the contract

    def serve(self, intake: Intake) -> None:
        """Send every job of the intake on its way; jobs wait for their bytes, and for room, beside that."""
        self._refuse_if_threaded()
        self._on().serve(intake)

    def dispatch(self, job: Job) -> None:
        """Send ``job`` on its way.  Blocks until its first bytes have come, and there is room where it goes."""
        self._on().dispatch(job)

    def misfit(self, handler: object) -> str:
        """What the first of them says that cannot serve it."""
        return next((words for each in self._leaves() if (words := each.misfit(handler))), "")

    def _refuse_if_threaded(self) -> None:
        for each in self._leaves():
            if each.forks:
                refuse_if_threaded(f"Route with {type(each).__name__}")

    def _on(self) -> Switchboard:
        if self._board is None:
            self._board = Switchboard(self, self._leaves())
        return self._board

    def join(self, deadline: Deadline) -> bool:
        """Dispatch what waits for room, then join all; the deadline is for the whole."""
        return self._board is None or self._board.join(deadline)

    def reload(self) -> None:
        """Let all reload."""
        for each in self.dispatchers.values():
            each.reload()

    def cancel(self) -> None:
        """Refuse what was not dispatched, and cancel all."""
        if self._board is not None:
            self._board.cancel()

    def close(self) -> None:
        """Close all."""
        if self._board is not None:
            self._board.close()
            self._board = None
