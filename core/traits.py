"""What a request-handler class tells of itself."""

from __future__ import annotations

from attrs import frozen

from tricorn.contracts import Kind

__all__ = ["Traits"]


@frozen
class Traits:
    """The value of a class's one attribute of ours, ``_tricorn``: programs have their own names for all others."""

    #: What a server may give to it.
    kinds: frozenset[Kind] = frozenset(Kind)
    #: Datagrams only: an empty packet is sent where nothing was written.
    always_replies: bool = False
