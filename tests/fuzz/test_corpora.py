"""What fuzzers have found, tried again: each folder of ``corpora`` is a target's; see `fuzz.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
try:
    from targets import FRAMINGS, TARGETS, read_proxy_header
finally:
    sys.path.remove(str(HERE))

CASES = sorted(path for name in TARGETS for path in (HERE / "corpora" / name).glob("*"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name[:8]}")
def test_what_was_found(path: Path) -> None:
    """Each input that once led somewhere new."""
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_there_is_something(name: str) -> None:
    """The corpus is not lost, and small."""
    kept = [path.read_bytes() for path in (HERE / "corpora" / name).iterdir()]
    assert len(kept) >= 5
    assert sum(map(len, kept)) < 100_000


def test_headers_are_found() -> None:
    """Of the PROXY header both versions."""
    kept = [path.read_bytes() for path in (HERE / "corpora" / "proxy_header").iterdir()]
    versions = {found[0].version for data in kept if (found := read_proxy_header(data[1:], 1000)) is not None}
    assert versions == {1, 2}


@pytest.mark.parametrize("name", FRAMINGS)
def test_messages_are_found(name: str) -> None:
    """Of each framing whole messages, and at least one that breaks it where that is possible."""
    framing = FRAMINGS[name]
    messages, faults = 0, 0
    for path in (HERE / "corpora" / name).iterdir():
        decoder = framing.decoder()
        messages += len(decoder.feed(path.read_bytes()[1:]) + decoder.end())
        faults += decoder.fault is not None
    assert messages
    assert faults or name == "chunks"
