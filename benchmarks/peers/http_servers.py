"""Thirteen bytes over HTTP, by the standard library's servers and by WSGI servers.

python benchmarks/peers/http_servers.py --kind waitress
"""

from __future__ import annotations

import socketserver
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from wsgiref.simple_server import WSGIServer

from contract import arguments, listening_socket, tell
from hello import HelloHandler, QuietWSGIRequestHandler, application

BACKLOG = 1024
#: As many as Tricorn's pool has.
THREADS = 16


def serve_http_server() -> None:
    """`http.server`, with a thread for each connection."""

    class Server(ThreadingHTTPServer):
        request_queue_size = BACKLOG

    with Server(("127.0.0.1", 0), HelloHandler) as server:
        tell("tcp", server.server_address)
        server.serve_forever()


def serve_wsgiref() -> None:
    """`wsgiref`, with a thread for each connection."""

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        request_queue_size = BACKLOG
        daemon_threads = True

    with Server(("127.0.0.1", 0), QuietWSGIRequestHandler) as server:
        server.set_app(application)
        tell("tcp", server.server_address)
        server.serve_forever()


def serve_waitress() -> None:
    """An event loop, and a pool for the application."""
    import waitress

    sock = listening_socket("tcp", BACKLOG)
    tell("tcp", sock.getsockname())
    waitress.serve(application, sockets=[sock], threads=THREADS, connection_limit=4000, _quiet=True)


def serve_cheroot() -> None:
    """A pool of threads."""
    from cheroot import wsgi

    server = wsgi.Server(("127.0.0.1", 0), application, numthreads=THREADS, request_queue_size=BACKLOG)
    server.prepare()
    tell("tcp", server.bind_addr)
    server.serve()


def serve_gunicorn(worker_class: str) -> None:
    """One worker process behind a supervisor."""
    import os

    from gunicorn.app.base import BaseApplication

    sock = listening_socket("tcp", BACKLOG)
    address, descriptor = sock.getsockname(), os.dup(sock.fileno())
    settings = {
        "bind": f"fd://{descriptor}",
        "backlog": BACKLOG,
        "workers": 1,
        "worker_class": worker_class,
        "threads": THREADS if worker_class == "gthread" else 1,
        "keepalive": 75,
        "graceful_timeout": 0,
        "loglevel": "critical",
        # In the worker: only then is it ready.  SIGTERM is left to the supervisor.
        "post_worker_init": lambda worker: print(f"READY tcp:{address[0]}:{address[1]}", flush=True),
    }

    class Hello(BaseApplication):
        def load_config(self) -> None:
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> object:
            return application

    Hello().run()


KINDS: dict[str, Callable[[], None]] = {
    "http.server": serve_http_server,
    "wsgiref": serve_wsgiref,
    "waitress": serve_waitress,
    "cheroot": serve_cheroot,
    "gunicorn-gthread": lambda: serve_gunicorn("gthread"),
    "gunicorn-sync": lambda: serve_gunicorn("sync"),
}


if __name__ == "__main__":
    KINDS[arguments(__doc__, tuple(KINDS), ("tcp",)).kind]()
