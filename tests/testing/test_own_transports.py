"""Tricorn's own transports keep the laws that it asks of everybody's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tricorn.contracts import Transport
from tricorn.testing import check_transport
from tricorn.transports import TCP, UDP, Memory, UnixDatagram, UnixStream


@pytest.mark.parametrize(
    "transport",
    [TCP("127.0.0.1", 0), TCP("127.0.0.1", 0, reuse_port=True), UDP("127.0.0.1", 0), UDP("0.0.0.0", 0), Memory()],
    ids=str,
)
def test_addresses(transport: Transport) -> None:
    """On an address of the kernel's choice, or none at all."""
    check_transport(lambda: transport)


@pytest.mark.parametrize("kind", [UnixStream, UnixDatagram])
@pytest.mark.parametrize("name", ["socket", "@tricorn-test-laws"])
def test_names(kind: type[UnixStream | UnixDatagram], name: str, tmp_path: Path) -> None:
    """On a path, or an abstract name; no file is left."""
    check_transport(lambda: kind(name if name.startswith("@") else str(tmp_path / name)))
    assert not list(tmp_path.iterdir())
