"""A line echo over TCP, written as a request-handler class, a thread for each connection.

::

    python examples/echo_tcp.py            # on 127.0.0.1:9999
    nc 127.0.0.1 9999

The class is what `socketserver.StreamRequestHandler` would be: ``rfile``, ``wfile``, ``timeout``, ``client_address``.
"""

from __future__ import annotations

import sys

from tricorn import Server
from tricorn.handlers import StreamRequestHandler
from tricorn.strategies import Thread
from tricorn.transports import TCP


class Echo(StreamRequestHandler):
    """Numbers each line and sends it back; hangs up on a client that is silent for a minute."""

    timeout = 60

    def handle(self) -> None:
        """Serve one connection to its end."""
        for number, line in enumerate(self.rfile, 1):
            self.wfile.write(b"%d: %b" % (number, line))


def main(port: int = 9999) -> None:
    """Serve until Ctrl-C or SIGTERM; connections that are in the middle of something are let finish."""
    server = Server(TCP("127.0.0.1", port), Thread(limit=100), Echo)
    server.bind()
    print("serving on {}:{}".format(*server.address), flush=True)
    print(server.serve_forever(signals=True))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
