"""Who is let in, and what becomes of those for whom there is no room: the values, and the permits.

`Admission` and the policies are values that a server is given; what acts on them is in `tricorn.overload`.  Capacity is
reserved before the kernel is asked for a connection, and given back when its job is over: that is a permit.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tricorn.checks import optional, refuse_option, seconds, whole_number
from tricorn.wakeup import WakeUp

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["MAX_CONNECTIONS", "SHED", "Admission", "Drop", "Permits", "Reject", "ShedOldest", "Wait", "WhenFull"]

#: Why a conversation ended that was idle when its place was needed.
SHED = "shed: idle when there was no place for others"
#: Default bound on requests in flight in one process, where the dispatcher sets none of its own.
MAX_CONNECTIONS = 10_000


@frozen
class Wait:
    """When full: accept nothing.  The kernel keeps those who come in the listener's backlog, in their order, and beyond
    that lets them try again.  Nobody is refused, and nothing is spent on those who wait.  The default."""


@frozen
class Reject:
    """When full: accept, send ``data``, and close.

    ``data`` is what the protocol says for "busy" (an HTTP 503, an SMTP 421), at most 64 KiB; the default is to say
    nothing.  It is sent without waiting, and the connection is read from for a second at most, so that it is not lost
    in a reset.  Over TLS nothing is sent, since nothing is agreed on yet; packets are dropped, since the sender's
    address may be forged.
    """

    data: bytes = field(default=b"")

    @data.validator
    def _fitting(self, option: Attribute[bytes], value: object) -> None:
        if not isinstance(value, bytes) or len(value) > 65_536:
            refuse_option(self, option.name, value, "bytes, at most 65,536 of them")


@frozen
class Drop:
    """When full: accept, and reset the connection (a Unix socket is closed).  The cheapest way to say no."""


@frozen
class ShedOldest:
    """When full: end the conversation that was accepted first among those that are idle, and give its place away.

    Idle is one that waits for the peer's next request, and has for a quarter of a second; what the peer has sent by
    then is still answered.  Where nobody is idle, those who come wait as with `Wait`.  Under `Fork`, whose children
    hold the conversations, nobody is known to be idle.
    """


WhenFull = Wait | Reject | Drop | ShedOldest


@frozen
class Admission:
    """How many are let in, and what happens to the rest.

    ::

        admission = Admission(max_connections=2000, max_per_peer=20, when_full=Reject(b"421 too busy, try later"))
        Server(transport, dispatcher, handler, admission=admission)

    ``max_connections``: requests in flight in one serving process; 10,000 by default.  The dispatcher may hold fewer
    (16 workers hold 16), and then it is full at that number.
    ``max_per_peer``: requests in flight of one peer in one serving process; ``None``, the default, sets no limit beside
    the first.  A peer is an IPv4 address, also where it is written as an IPv6 one (``::ffff:192.0.2.1``); the first 64
    bits of an IPv6 address, since that is what one subscriber has; the user of a Unix connection.  Packets count for
    the address that they claim to come from.  Whoever is above it is refused at once: rejected or dropped where that is
    ``when_full``, else closed.  Behind a proxy all come from the proxy.
    ``max_waiting``: connections that are accepted, and wait here for a place, before `Reject` and `Drop` turn anybody
    away; 0 by default.  Under `Wait` and `ShedOldest` it is the kernel that keeps them, so there it must be 0: their
    number is the ``backlog`` of the transport.
    ``max_wait``: seconds that one of those waits at most; then it is turned away.  5 by default.
    ``when_full``: `Wait`, `Reject`, `Drop` or `ShedOldest`.

    Decided on the accepting thread: before a handshake, before ``verify``, and before a thread or a process is started.
    What is refused is told as `~tricorn.events.JobRefused` with the reason, and counted in `Server.refusals`.

    A value: opens nothing, and may be shared by servers.  Raises `~tricorn.errors.ConfigurationError`.
    """

    max_connections: int = field(default=MAX_CONNECTIONS, validator=whole_number(1))
    max_per_peer: int | None = field(default=None, validator=optional(whole_number(1)))
    max_waiting: int = field(default=0, validator=whole_number(0))
    max_wait: float = field(default=5.0, validator=seconds)
    when_full: WhenFull = field(factory=Wait)

    @property
    def needs_gate(self) -> bool:
        """It says more than a number: see `tricorn.overload`."""
        return self.max_per_peer is not None or not isinstance(self.when_full, Wait)

    @when_full.validator
    def _known(self, option: Attribute[Any], value: object) -> None:
        if not isinstance(value, (Wait, Reject, Drop, ShedOldest)):
            refuse_option(self, option.name, value, "Wait(), Reject(data), Drop() or ShedOldest()")
        if self.max_waiting and isinstance(value, (Wait, ShedOldest)):
            refuse_option(
                self, "max_waiting", self.max_waiting,
                f"0 with when_full={value!r}: the kernel keeps those who wait, as many as the transport's backlog says",
            )  # fmt: skip


class Permits:
    """A fixed number of tokens.  `take` and `give` never block and take no lock, so they are safe from any thread,
    in a signal handler, and on both sides of a fork.

    A deque of tokens rather than a semaphore: 60 ns for a pair of calls beside 1.1 us, and the waiting is done by the
    intake, which has descriptors to watch meanwhile.
    """

    __slots__ = ("_free", "_waiters", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free: deque[None] = deque([None] * capacity)
        self._waiters: deque[WakeUp] = deque()

    def take(self) -> bool:
        """One permit, if there is one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def give(self) -> None:
        """Give one back, and wake one who waits for it."""
        self._free.append(None)
        if self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                return  # another giver woke it
            waiter.signal()

    def notify(self, wakeup: WakeUp) -> bool:
        """Signal ``wakeup`` at the next `give`; False if a permit is free already and there is nothing to wait for."""
        if wakeup not in self._waiters:
            self._waiters.append(wakeup)
        if not self._free:  # looked at after joining the queue: a `give` in between has seen us
            return True
        try:
            self._waiters.remove(wakeup)
        except ValueError:
            pass  # already signalled; a wake-up too many does no harm
        return False

    def forget(self, wakeup: WakeUp) -> None:
        """``wakeup`` has its permit.  If it was signalled for another one meanwhile, that goes to who waits next."""
        try:
            self._waiters.remove(wakeup)
        except ValueError:
            pass
        if self._free and self._waiters:
            try:
                self._waiters.popleft().signal()
            except IndexError:
                pass

    @property
    def free(self) -> int:
        """How many are left, for reports; it may be out of date when you read it."""
        return len(self._free)
