"""What a server may do when: one enum, one table, no I/O."""

from __future__ import annotations

from enum import Enum
from threading import Lock

from tricorn.errors import StateError

__all__ = ["Lifecycle", "State"]


class State(Enum):
    """The stations of a server's one life, in order."""

    NEW = "new"
    BOUND = "bound"
    SERVING = "serving"
    DRAINING = "draining"
    CLOSED = "closed"


_NEXT: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.BOUND, State.CLOSED}),
    State.BOUND: frozenset({State.SERVING, State.DRAINING, State.CLOSED}),
    State.SERVING: frozenset({State.BOUND, State.DRAINING, State.CLOSED}),  # BOUND: handle_request came back
    State.DRAINING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Lifecycle:
    """The current state, moved only along the table.  Safe from any thread."""

    __slots__ = ("_lock", "_state")

    def __init__(self) -> None:
        self._lock = Lock()
        self._state = State.NEW

    @property
    def state(self) -> State:
        """Where the server is now."""
        return self._state

    def advance(self, to: State, *, doing: str, only_from: State | None = None) -> None:
        """Move to ``to``, or raise `StateError` that says what ``doing`` was refused, and why."""
        with self._lock:
            if to not in _NEXT[self._state] or only_from not in (None, self._state):
                raise StateError(f"cannot {doing}: the server is {self._state.value}{_advice(self._state)}")
            self._state = to

    def try_advance(self, to: State, *, only_from: State | None = None) -> bool:
        """Move to ``to`` if the table allows it (and from ``only_from`` alone); True if this call moved it."""
        with self._lock:
            if to not in _NEXT[self._state] or only_from not in (None, self._state):
                return False
            self._state = to
            return True


def _advice(state: State) -> str:
    if state in (State.DRAINING, State.CLOSED):
        return "; a server lives once: build a new one from the same parts"
    if state in (State.BOUND, State.SERVING):
        return " already"
    return "; bind() it first, or use it as a context manager"
