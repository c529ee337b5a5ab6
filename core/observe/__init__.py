"""Ready-made observers, and what it takes to write text of unknown origin into a log.

What an observer is, and how it says which events it wants (``events``, ``quiet``), is in `tricorn.observers`; the
escaping functions are in `tricorn.observe.escape`.
"""

from __future__ import annotations

from tricorn.observe.log import LogObserver

__all__ = ["LogObserver"]
