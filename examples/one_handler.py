"""One handler over any transport, under any dispatcher: change a word.

::

    python examples/one_handler.py tcp://127.0.0.1:9999 selector
    python examples/one_handler.py udp://127.0.0.1:9999 thread-pool
    python examples/one_handler.py unix:/tmp/one.sock process-pool
    python examples/one_handler.py 'tls+tcp://127.0.0.1:9999?certfile=cert.pem&keyfile=key.pem' asyncio

It speaks lines: ``2 3 add`` is answered by ``5``, and what is no such sum by what is wrong with it.
"""

from __future__ import annotations

import operator
import sys

from tricorn import Server
from tricorn.handlers import Lines, message

OPERATIONS = {b"add": operator.add, b"sub": operator.sub, b"mul": operator.mul}


@message(Lines(max_length=1000, error_reply=b"error: a line of more than 1000 bytes\n"))
def calculate(line: bytes) -> bytes:
    """The whole service: a line in, a line out.  It knows of no socket, no thread and no loop."""
    try:
        first, second, name = line.split()
        return str(OPERATIONS[name](int(first), int(second))).encode()
    except (ValueError, KeyError):
        return b"error: write two whole numbers and add, sub or mul"


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    transport, dispatcher = sys.argv[1:3] if len(sys.argv) > 2 else ("tcp://127.0.0.1:9999", "selector")
    server = Server(transport, dispatcher, calculate)
    server.bind()
    print(f"Serving on {server.address} with {dispatcher}", flush=True)
    print(server.serve_forever(signals=True))


if __name__ == "__main__":
    main()
