"""What a legacy server holds beyond its documented attributes: one object, made when it is first needed."""

from __future__ import annotations

import threading

from tricorn.wakeup import WakeUp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["State", "state_of"]


class State:
    """Everything of Tricorn's own on one server."""

    __slots__ = ("closed", "dispatching", "idle", "lock", "resume_at", "thread", "wakeup")

    def __init__(self) -> None:
        #: Between ``shutdown`` and the ends of ``serve_forever``; re-entrant, since a signal handler may shut down.
        self.lock = threading.RLock()
        #: Raised to make the loop look around at once; there while the loop runs.
        self.wakeup: WakeUp | None = None
        #: The thread in ``serve_forever``, or 0.
        self.thread = 0
        #: ``server_close`` was called since the loop began.
        self.closed = False
        #: The last ``get_request`` had nothing to give.
        self.idle = False
        #: Until when nothing is accepted, by `time.monotonic`, because the machine is out of something; or 0.
        self.resume_at = 0.0
        #: How requests go to a composed dispatcher, for the strategies that the original does not have.
        self.dispatching: Any = None

    def wake(self) -> None:
        """Make the loop look around, if there is one.  Safe from anywhere."""
        wakeup = self.wakeup
        if wakeup is not None:
            wakeup.signal()


_making = threading.Lock()
# Past `__getattr__` and `__setattr__` of the server's class, and never by `vars`, which would give the instance a dict
# of its own: each of its attributes and methods would be looked up the slow way from then on.
_get, _set = object.__getattribute__, object.__setattr__


def state_of(server: object) -> State:
    """The state of ``server``, whether or not its class ever called our ``__init__``."""
    try:
        state: State = _get(server, "_tricorn")
    except AttributeError:
        with _making:
            try:
                state = _get(server, "_tricorn")
            except AttributeError:
                state = State()
                _set(server, "_tricorn", state)
    return state
