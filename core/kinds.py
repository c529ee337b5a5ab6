"""What requests, handlers and handler classes are: words that contracts and the facade share.

No attrs class and nothing of `typing` here: the facade imports it, and a program that forks for each request pays for
every page that it holds.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Kind", "Shape", "Traits"]


class Kind(Enum):
    """What a transport yields."""

    STREAM = "stream"
    DATAGRAM = "datagram"
    ITEM = "item"


class Shape(Enum):
    """How a handler is called."""

    CLASS = "request-handler class"
    FUNCTION = "function"
    MESSAGE = "message handler"
    COROUTINE = "coroutine function"


class Traits:
    """The value of a handler class's one attribute of ours, ``_tricorn``: programs have their own names for others."""

    __slots__ = ("always_replies", "kinds")

    def __init__(self, kinds: frozenset[Kind] = frozenset(Kind), *, always_replies: bool = False) -> None:
        #: What a server may give to it.
        self.kinds = kinds
        #: Datagrams only: an empty packet is sent where nothing was written.
        self.always_replies = always_replies
