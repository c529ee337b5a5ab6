"""Words that several error messages share."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["closest", "quoted"]


def quoted(words: Iterable[str]) -> str:
    """The words as a list in a sentence: ``'a', 'b'``; ``none`` where there are none."""
    return ", ".join(f"'{word}'" for word in words) or "none"


def closest(word: str, known: Iterable[str]) -> str:
    """A question to end a sentence with, ``; did you mean 'x'?``, or ``""`` where nothing known is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
