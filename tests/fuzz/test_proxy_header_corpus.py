"""What a fuzzer has found out about the PROXY header, tried again; and the fuzzer itself.

    python tests/fuzz/test_proxy_header_corpus.py CORPUS_FOLDER -max_total_time=3600 -max_len=600

runs atheris (pip install atheris), which adds to the folder what leads somewhere new; the corpus here is such a folder.
The first byte of an input says how the rest comes in pieces.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tricorn.errors import MalformedHeader
from tricorn.proxy_header import MAX_V2_BYTES, HeaderReader, ProxyHeader

CORPUS = Path(__file__).parent / "corpora" / "proxy_header"


def try_one(data: bytes) -> None:
    """Read it in pieces and at once: the same header or an error of ours, never more than the bound, nothing beyond."""
    size, stream = (data[0] % 64 + 1 if data else 1), data[1:]
    pieces = _read(stream, size)
    assert pieces == _read(stream, len(stream) or 1)
    if pieces is not None:
        header, taken = pieces
        assert 15 <= taken <= min(MAX_V2_BYTES, len(stream))
        assert (header.source is None) == (header.destination is None)
        assert header.authority is None or header.authority.isprintable()
        assert len(header.unique_id or b"") <= 128
        assert header.alpn is None or len(header.alpn) <= MAX_V2_BYTES
        assert _read(stream[:taken], size) == pieces
        assert _read(stream[: taken - 1], size) is None


def _read(stream: bytes, size: int) -> tuple[ProxyHeader, int] | None:
    reader, at = HeaderReader(), 0
    try:
        while at < len(stream):
            piece = stream[at : at + min(size, reader.room)]
            taken = reader.push(piece)
            assert 0 < taken <= len(piece)
            at += taken
            if reader.header is not None:
                return reader.header, at
            assert taken == len(piece)
    except MalformedHeader:
        pass
    return None


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name[:8])
def test_what_was_found(path: Path) -> None:
    """Each input that once led somewhere new."""
    try_one(path.read_bytes())


def test_there_is_something() -> None:
    """The corpus is not lost."""
    kept = [path.read_bytes() for path in CORPUS.iterdir()]
    found = [_read(data[1:], 1000) for data in kept]
    assert any(each is not None and each[0].version == 1 for each in found)
    assert any(each is not None and each[0].version == 2 for each in found)
    assert sum(map(len, kept)) < 100_000


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
