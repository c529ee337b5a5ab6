"""Whether a dispatcher keeps the laws."""

from __future__ import annotations

import time
from collections.abc import Callable

from tricorn.contracts import Dispatcher
from tricorn.testing.dispatcher_laws import LAWS
from tricorn.testing.judging import hold_to
from tricorn.testing.session import Bench

__all__ = ["check_dispatcher"]

#: Requests that must run at once where the dispatcher sets no limit of its own.
_CAPACITY = 2


def check_dispatcher(
    factory: Callable[[], Dispatcher],
    *,
    capacity: int | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Raise `AssertionError` for the first law that the dispatchers made by ``factory`` break; return if they keep all.

    ``factory``
        Makes a fresh dispatcher at each call.  It is served with every kind of request that it says it can serve:
        connections and packets over the loopback interface, items of a source of the kit's own.  One that does not
        call functions must call coroutine functions.
    ``capacity``
        How many requests it must be able to run at once: the least of 2 and its ``concurrency`` unless you say so.  One
        that is made of a single process which serves one after the other needs ``capacity=1``.
    ``pause``
        How a handler waits for some seconds without holding up the others: `time.sleep`, or ``gevent.sleep`` and its
        like where an event loop runs the handlers.  A coroutine handler waits with `asyncio.sleep`.

    ::

        check_dispatcher(lambda: MyThreads(limit=4))
        check_dispatcher(lambda: Gevent(limit=100), pause=gevent.sleep)

    Takes some seconds.  Starts servers and threads of its own, one server after the other; run it in the main thread to
    have stopping from a signal handler checked, too.  For a dispatcher that forks, the program must have no
    other thread: `~tricorn.errors.StateError`.
    """
    sample = factory()
    size = min(_CAPACITY, sample.concurrency or _CAPACITY) if capacity is None else capacity
    for kind in sorted(sample.kinds, key=lambda kind: kind.value):
        bench = Bench(factory, kind, pause, size)
        for law in LAWS:
            hold_to(law, bench, f"{type(sample).__name__} with {kind.value} requests")
