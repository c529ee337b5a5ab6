"""What the peers have in common: options, a listening socket, the line ``READY``, the end.

The same contract as ``server.py``: a peer prints ``READY <proto>:<address>`` once clients can reach it, and ends on
SIGTERM.  Work is what ``work.py`` has; a peer that must not block sleeps in its own way.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from work import WORKS, Work, compute

__all__ = ["MAX_LINE", "SLEEP_S", "WORKS", "Work", "arguments", "compute", "listening_socket", "tell"]

PACKETS = ("udp", "unixgram")
#: The limit on a line's length that Tricorn has.
MAX_LINE = 65_536
#: What the work ``sleep`` takes.
SLEEP_S = 0.01


def arguments(
    description: str | None, kinds: Sequence[str] = (), protos: Sequence[str] = ("tcp", "unix")
) -> argparse.Namespace:
    """What the command line says; ``kinds`` are what one script can be."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if kinds:
        parser.add_argument("--kind", default=kinds[0], choices=kinds)
    parser.add_argument("--proto", default=protos[0], choices=protos)
    parser.add_argument("--framing", default="bytes", choices=["bytes", "lines"], help="what is sent back at a time")
    parser.add_argument("--work", default="echo", choices=sorted(WORKS))
    parser.add_argument("--bufsize", type=int, default=4096)
    parser.add_argument("--backlog", type=int, default=1024)
    return parser.parse_args()


def listening_socket(proto: str, backlog: int = 1024) -> socket.socket:
    """Where clients reach it: a free port, or a path of its own that is gone at the end."""
    family = socket.AF_UNIX if proto.startswith("unix") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if proto in PACKETS else socket.SOCK_STREAM)
    if family == socket.AF_UNIX:
        sock.bind(os.path.join(tempfile.gettempdir(), f"peer-bench-{os.getpid()}.sock"))
    else:
        sock.bind(("127.0.0.1", 0))
    if proto not in PACKETS:
        sock.listen(backlog)
    return sock


def tell(proto: str, address: tuple[str, int] | str) -> None:
    """Say where clients can reach it; from now on SIGTERM ends it at once."""

    def end(number: int, frame: object) -> None:
        if isinstance(address, str) and os.getpid() == serving:
            os.unlink(address)
        os._exit(0)

    serving = os.getpid()
    signal.signal(signal.SIGTERM, end)
    where = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address
    print(f"READY {proto}:{where}", flush=True)
