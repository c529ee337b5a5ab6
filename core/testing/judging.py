"""Holding a part to one law."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tricorn.errors import StateError
from tricorn.testing.leaks import LeftBehind

__all__ = ["hold_to"]

S = TypeVar("S")


def hold_to(law: Callable[[S], None], subject: S, part: str) -> None:
    """Raise `AssertionError` with ``part``, the law and what was found, if the law is broken.

    What is left behind counts if it is left again by a second try: a library may open something once for the whole
    process, as event loops do.  `~tricorn.errors.StateError` goes through: then the program cannot run this check.
    """
    try:
        try:
            law(subject)
        except LeftBehind:
            law(subject)
    except StateError:
        raise
    except Exception as error:
        found = str(error) if isinstance(error, AssertionError) else repr(error)
        raise AssertionError(f"{part} breaks the law: {law.__doc__}; {found}") from error
