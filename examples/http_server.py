"""`http.server`'s handler, unchanged, under any dispatcher for streams.

::

    python examples/http_server.py                                # on 127.0.0.1:8000, a pool of 16 threads
    python examples/http_server.py 8000 'process-pool?workers=2'  # another dispatcher, by name
    curl http://127.0.0.1:8000/

Serves the files of the current folder: for looking around, not for the internet.
"""

from __future__ import annotations

import sys
from http.server import SimpleHTTPRequestHandler

from tricorn import Server
from tricorn.transports import TCP


def main(port: str = "8000", dispatcher: str = "thread-pool?workers=16") -> None:
    """Serve until Ctrl-C or SIGTERM."""
    server = Server(TCP("127.0.0.1", int(port)), dispatcher, SimpleHTTPRequestHandler)
    server.bind()
    print("serving on http://{}:{}/".format(*server.address), flush=True)
    print(server.serve_forever(signals=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
