"""One transport under examination: its listener, its clients, and what was accepted."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field

from tricorn.contracts import Kind, Listener, Transport
from tricorn.deadline import Deadline
from tricorn.testing import bounds
from tricorn.testing.approach import Connect
from tricorn.testing.bounds import expect
from tricorn.testing.leaks import no_leaks

__all__ = ["Counter", "Stand"]


def readable(listener: Listener, timeout: float) -> bool:
    """Whether the listener's descriptor becomes readable in time."""
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(timeout * 1000))


@define(eq=False)
class Counter:
    """A listener with its customers."""

    transport: Transport
    listeners: list[Listener]
    connect: Connect
    _clients: list[Any] = field(factory=list, init=False)
    _requests: list[Any] = field(factory=list, init=False)

    @property
    def listener(self) -> Listener:
        """The first one."""
        return self.listeners[0]

    def client(self) -> Any:
        """Somebody who connects."""
        client = self.connect(self.transport, self.listener.address)
        self._clients.append(client)
        return client

    def accept(self) -> Any:
        """The next request, once there is one."""
        expect(readable(self.listener, bounds.BOUND_S), f"fileno() did not become readable within {bounds.BOUND_S:g} s")
        request = self.listener.accept()
        expect(request.kind is self.transport.kind, f"accept() returned a {request.kind}")
        self._requests.append(request)
        request.open(Deadline.after(bounds.BOUND_S))
        return request

    def pair(self) -> tuple[Any, Any]:
        """A client and what was accepted from it.  For streams."""
        client = self.client()
        return client, self.accept()

    def check_idle(self, when: str) -> None:
        """Nothing is pending.  A source of items may have to be looked at, and more than once, before it rests."""
        items = self.transport.kind is Kind.ITEM
        expect(items or not readable(self.listener, 0), f"{when} fileno() is readable")
        patience = Deadline.after(bounds.BOUND_S if items else 0)
        while True:
            try:
                request = self.listener.accept()
            except BlockingIOError:
                if not readable(self.listener, 0):
                    return
                expect(not patience.expired, f"{when} fileno() is readable, and accept() has nothing")
            else:
                self._requests.append(request)
                raise AssertionError(f"{when} accept() returned {request!r} instead of raising BlockingIOError")

    def close(self) -> None:
        """Everything that is still open."""
        for request in self._requests:
            request.finish(None)
        for client in self._clients:
            with suppress(OSError):
                client.close()
        for listener in self.listeners:
            if listener.fileno() >= 0:
                listener.close()


@define(eq=False)
class Stand:
    """Opens counters."""

    factory: Callable[[], Transport]
    connect: Connect
    kind: Kind

    @contextmanager
    def open(self) -> Iterator[Counter]:
        """A fresh transport, listening; nothing may be left of it."""
        with no_leaks():
            transport = self.factory()
            counter = Counter(transport, list(transport.listen()), self.connect)
            try:
                yield counter
            finally:
                counter.close()
