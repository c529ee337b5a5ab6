"""Thirteen bytes over HTTP by Tricorn, under any dispatcher for streams.

    python benchmarks/http_server.py --dispatcher thread-pool
    python benchmarks/http_server.py --dispatcher thread --application wsgi
    python benchmarks/http_server.py --application wsgi-facade

``handler``: a handler class of `http.server`, unchanged.  ``wsgi``: wsgiref's handler class, which finds the WSGI
application in what it takes for its server.  ``wsgi-facade``: wsgiref's server class itself, with Tricorn's
`~tricorn.socketserver` installed in the place of the original and ``ThreadPoolMixIn`` in front.  The same contract as
``server.py``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tricorn import Admission, Server, socketserver
from tricorn.transports import TCP

sys.path.append(str(Path(__file__).resolve().parent / "peers"))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dispatcher", default="thread-pool", help="by name, with options")
    parser.add_argument("--application", default="handler", choices=["handler", "wsgi", "wsgi-facade"])
    parser.add_argument("--proto", default="tcp", choices=["tcp"])
    parser.add_argument("--backlog", type=int, default=1024)
    return parser.parse_args()


def tell(address: tuple[str, int]) -> None:
    """Where clients can reach it."""
    print(f"READY tcp:{address[0]}:{address[1]}", flush=True)


def wsgi_handler() -> type:
    """wsgiref's handler, with an application."""
    from hello import QuietWSGIRequestHandler, application

    class Application:
        """What the handler wants from its server."""

        base_environ = {"SERVER_NAME": "127.0.0.1", "GATEWAY_INTERFACE": "CGI/1.1", "SCRIPT_NAME": ""}  # noqa: RUF012
        get_app = staticmethod(lambda: application)

    class Handler(QuietWSGIRequestHandler):
        def __init__(self, request: object, client_address: object, server: object) -> None:
            super().__init__(request, client_address, Application)

    return Handler


def compose(given: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    from hello import HelloHandler

    handler = wsgi_handler() if given.application == "wsgi" else HelloHandler
    transport = TCP("127.0.0.1", 0, backlog=given.backlog)
    with Server(transport, given.dispatcher, handler, admission=Admission(20_000)) as server:
        tell(server.address)
        server.serve_forever(signals=True)


def serve_facade(backlog: int) -> None:
    """Serve until SIGTERM, by wsgiref's server class; `tricorn.socketserver` is in its bases already."""
    from wsgiref.simple_server import WSGIServer

    from hello import QuietWSGIRequestHandler, application

    class PoolServer(socketserver.ThreadPoolMixIn, WSGIServer):
        request_queue_size = backlog

    with PoolServer(("127.0.0.1", 0), QuietWSGIRequestHandler) as server:
        server.set_app(application)
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
        tell(server.server_address)
        server.serve_forever()


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments()
    if given.application == "wsgi-facade":
        socketserver.install()
        serve_facade(given.backlog)
    else:
        compose(given)


if __name__ == "__main__":
    main()
