"""At most one record a second of the same thing."""

from __future__ import annotations

import threading
from time import monotonic

__all__ = ["MAX_KEYS", "SPACE_S", "Spacing"]

#: Seconds between two of the same.
SPACE_S = 1.0
#: How many things are told apart; the rest have their second in common.
MAX_KEYS = 64


class Spacing:
    """Says which to tell, and counts the others.  Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: When it was last told, and how many were not since.
        self._seen: dict[str, tuple[float, int]] = {}

    def pass_or_count(self, key: str) -> int | None:
        """How many were not told since the last one that was, if this one is to be told; else ``None``."""
        now = monotonic()
        with self._lock:
            if key not in self._seen and len(self._seen) >= MAX_KEYS:
                key = ""
            told_at, untold = self._seen.get(key, (float("-inf"), 0))
            if now - told_at < SPACE_S:
                self._seen[key] = (told_at, untold + 1)
                return None
            self._seen[key] = (now, 0)
            return untold
