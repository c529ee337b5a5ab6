"""Telling the service manager how it stands: ready, reloading, stopping, and still turning.

Source: sd_notify(3) for the messages and the socket in NOTIFY_SOCKET, sd_watchdog_enabled(3) for WATCHDOG_USEC and
WATCHDOG_PID.  No library is needed: each message is one packet of text on a Unix socket.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

from attrs import define, field

from tricorn.events import Event, ServerStarted, ServerStopping
from tricorn.leases.alarm import Alarm

if TYPE_CHECKING:
    from tricorn.engine import Engine
    from tricorn.observers import Observers

__all__ = ["SEND_S", "ServiceManager", "Watchdog", "notified", "watchdog_seconds"]


#: Seconds that a message waits for a service manager that does not read.
SEND_S = 1.0


def watchdog_seconds(environment: Mapping[str, str] | None = None) -> float | None:
    """After how many seconds of silence the service manager takes this process for stuck; ``None`` if it does not.

    WATCHDOG_USEC, where WATCHDOG_PID is absent or this process.  What cannot be read counts as absent.
    """
    environment = os.environ if environment is None else environment
    pid, text = environment.get("WATCHDOG_PID"), environment.get("WATCHDOG_USEC", "")
    if (pid is not None and pid != str(os.getpid())) or not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return int(text) / 1e6 or None


@define(eq=False)
class ServiceManager:
    """Who reads NOTIFY_SOCKET.  An observer of a server; every method is safe from any thread.

    A message waits for `SEND_S` at most where it is not read, the watchdog's not at all.  Nothing that goes wrong is
    raised: a server does not end because nobody listens to what it says of itself.
    """

    #: What it wants to hear of.
    events: ClassVar[frozenset[type]] = frozenset({ServerStarted, ServerStopping})

    _address: str | bytes
    #: Forked children hold a copy of this, and are not the service's main process.
    _pid: int = field(factory=os.getpid, init=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ServiceManager | None:
        """The one that NOTIFY_SOCKET names, a path or ``@name``; ``None`` if it names none that could be reached."""
        name = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
        if not hasattr(socket, "AF_UNIX") or name[:1] not in ("/", "@") or len(name) < 2 or "\0" in name:
            return None
        return cls(b"\0" + os.fsencode(name[1:]) if name[0] == "@" else name)

    def tell(self, *assignments: str, patience: float = SEND_S) -> bool:
        """Send ``NAME=value`` lines as one message, within ``patience`` seconds; True if the kernel took it."""
        if os.getpid() != self._pid:
            return False
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(patience)
            sock.sendto("\n".join(assignments).encode(), self._address)
            return True
        return False

    def __call__(self, event: Event) -> None:
        """Pass on what an observer is told."""
        if isinstance(event, ServerStarted):
            self.ready()
        elif isinstance(event, ServerStopping):
            self.tell("STOPPING=1", f"STATUS=draining; {event.in_flight} requests in flight")

    def ready(self) -> None:
        """Clients can connect; after `reloading`: what was reloaded is in use."""
        self.tell("READY=1", f"MAINPID={self._pid}", "STATUS=serving")

    def reloading(self) -> None:
        """Something is being read again; `ready` ends it.  The time tells it from a message of an earlier reload."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    @contextmanager
    def while_reloading(self) -> Iterator[None]:
        """`reloading` and, in the end, `ready`."""
        self.reloading()
        try:
            yield
        finally:
            self.ready()

    def turning(self) -> None:
        """The watchdog's clock begins anew."""
        self.tell("WATCHDOG=1", patience=0)


class Watchdog:
    """Says that the server turns, at half the time after which it would be taken for stuck.

    It has no thread, which would say so whatever the others do.  An alarm's descriptor is among what the intake waits
    for, and whoever waits there says it: the thread that serves, or the loop, in one of its turns.  If none comes back
    to wait, nothing is said.  While the server drains, whoever watches over that says it.
    """

    def __init__(self, manager: ServiceManager, limit: float) -> None:
        self._manager = manager
        self._period = limit / 2
        self._alarm = Alarm()
        self._due = time.monotonic() + self._period / 2
        self._alarm.ring_in(self._period)

    def fileno(self) -> int:
        """The alarm's."""
        return self._alarm.fileno()

    def look(self) -> None:
        """Say it if it is time; several threads may come at once, and then perhaps two say it."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._period / 2  # a busy server comes by more often than the alarm rings
            self._manager.turning()
            self._alarm.ring_in(self._period)

    def close(self) -> None:
        """Give the descriptor back."""
        self._alarm.close()


@contextmanager
def notified(engine: Engine, observers: Observers) -> Iterator[ServiceManager | None]:
    """While ``engine`` serves, let the service manager know, if there is one; yields it."""
    manager = ServiceManager.from_environment()
    if manager is None:
        yield None
        return
    observers.add(manager)
    watchdog = _watchdog(manager)
    if watchdog is None:
        yield manager
        return
    engine.intake.watch(watchdog.fileno(), watchdog.look)
    engine.between = watchdog.look
    try:
        yield manager
    finally:
        engine.between = None
        watchdog.close()


def _watchdog(manager: ServiceManager) -> Watchdog | None:
    """Where one is wanted, and the system has alarms and a descriptor for one; a server that has none serves."""
    limit = watchdog_seconds()
    if limit is not None:
        with suppress(OSError):
            return Watchdog(manager, limit)
    return None
