"""What a request-handler class tells of itself."""

from __future__ import annotations

from typing import NamedTuple

from tricorn.contracts import Kind

__all__ = ["Traits"]


class Traits(NamedTuple):
    """The value of a class's one attribute of ours, ``_tricorn``: programs have their own names for all others.

    No attrs class, because the facade imports it: a program that forks pays for every page that it holds.
    """

    #: What a server may give to it.
    kinds: frozenset[Kind] = frozenset(Kind)
    #: Datagrams only: an empty packet is sent where nothing was written.
    always_replies: bool = False
