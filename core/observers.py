"""Who is told what happened.

An observer is a callable that takes one event (`tricorn.events`).  It is called on the thread where the fact came
about, so it must be quick and must not block; for jobs in other processes it is called in the server's own process.
It may have two attributes that spare the server the building of events nobody wants:

``events``  the event classes it wants; absent means all
``quiet``   True if it does not want to hear of jobs that start and complete normally; absent means False

Both are read when the server begins to serve.  What an observer raises is logged once for each observer and never
reaches a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from tricorn.errors import ConfigurationError
from tricorn.events import Event, JobFinished, JobRefused, JobStarted

__all__ = ["Observer", "Observers"]

Observer = Callable[[Event], object]


def _wants(observer: Observer, kind: type) -> bool:
    events = getattr(observer, "events", None)
    return events is None or kind in events


class Observers:
    """The observers of one server, sorted by what they want.  Building it calls none of them."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._all = tuple(observers)
        for each in self._all:
            if not callable(each):
                raise ConfigurationError(f"an observer is {each!r}; allowed: callables that take one event")
        self._complained: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read again what each wants (a log level may have changed)."""
        eager = [each for each in self._all if not getattr(each, "quiet", False)]
        #: True if somebody wants to hear of every job's start.
        self.of_starts = any(_wants(each, JobStarted) for each in eager)
        #: True if somebody wants to hear of jobs that complete normally.
        self.of_completions = any(_wants(each, JobFinished) for each in eager)
        #: True if somebody wants to hear of jobs that go wrong.
        self.of_troubles = any(_wants(each, JobFinished) or _wants(each, JobRefused) for each in self._all)

    def add(self, observer: Observer) -> None:
        """One more; before the server begins to serve."""
        self._all += (observer,)

    def tell(self, event: Event) -> None:
        """Call everyone who wants ``event``.  Never raises: a thread of ours that ends would serve nobody any more."""
        for observer in self._all:
            if _wants(observer, type(event)):
                try:
                    observer(event)
                except BaseException:
                    self._complain(observer, event)

    def _complain(self, observer: Observer, event: Event) -> None:
        if id(observer) in self._complained:
            return
        self._complained.add(id(observer))
        try:
            logging.getLogger("tricorn").error(
                "observer %r raised on %s; further errors of it are not logged",
                observer,
                type(event).__name__,
                exc_info=True,  # noqa: LOG014 - called while the exception is handled
            )
        except Exception:
            pass  # a broken log handler must not cost a request
