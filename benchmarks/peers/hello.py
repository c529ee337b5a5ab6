"""What every HTTP server here runs: a handler of `http.server`, and a WSGI application, unchanged everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from wsgiref.simple_server import WSGIRequestHandler

__all__ = ["HelloHandler", "QuietWSGIRequestHandler", "application"]

BODY = b"Hello, world!"


class HelloHandler(BaseHTTPRequestHandler):
    """As `http.server` documents handlers, with connections that are kept."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *args: object) -> None:
        """Nothing: the terminal is not what is measured."""


class QuietWSGIRequestHandler(WSGIRequestHandler):
    """The library's own handler; it speaks HTTP/1.0, so that each connection has one request."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """A WSGI application, PEP 3333."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]
