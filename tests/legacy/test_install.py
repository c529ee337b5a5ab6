"""`tricorn.socketserver.install`: the facade in the place of the original, or the reason why it is too late."""

from __future__ import annotations

from typing import Any

import pytest

PATIENCE_S = 30


def lines_of(program: Any) -> list[str]:
    """What it printed; nothing may have gone wrong."""
    out, err = program.communicate(timeout=PATIENCE_S)
    assert (err, program.returncode) == ("", 0)
    return out.splitlines()


INSTALL = "from tricorn import socketserver as facade; facade.install()\n"


def test_it_is_what_import_gives(script: Any) -> None:
    """`import socketserver` and `from socketserver import ...`; a second `install` is no error."""
    program = script(
        INSTALL
        + "import socketserver; from socketserver import TCPServer\n"
        + "print(socketserver is facade, TCPServer is facade.TCPServer)\n"
        + "facade.install(); import socketserver; print(socketserver is facade)\n"
    )
    assert lines_of(program) == ["True True", "True"]


HTTP = """
import http.server, threading, urllib.request

class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(type(self.server).__name__.encode())
    def log_message(self, *args):
        pass

assert issubclass(http.server.HTTPServer, facade.TCPServer)
assert issubclass(http.server.BaseHTTPRequestHandler, facade.StreamRequestHandler)
for server_class in (http.server.HTTPServer, http.server.ThreadingHTTPServer):
    with server_class(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with urllib.request.urlopen("http://127.0.0.1:%d/" % server.server_address[1], timeout=20) as answer:
            print(answer.read().decode())
        server.shutdown()
        thread.join()
"""

XMLRPC = """
import threading, xmlrpc.client, xmlrpc.server

assert issubclass(xmlrpc.server.SimpleXMLRPCServer, facade.TCPServer)
with xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
    server.register_function(pow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with xmlrpc.client.ServerProxy("http://127.0.0.1:%d" % server.server_address[1]) as proxy:
        print(proxy.pow(2, 5))
    server.shutdown()
    thread.join()
"""

WSGI = """
import threading, urllib.request, wsgiref.simple_server

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]

class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args):
        pass

assert issubclass(wsgiref.simple_server.WSGIServer, facade.TCPServer)
with wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    with urllib.request.urlopen("http://127.0.0.1:%d/path" % server.server_port, timeout=20) as answer:
        print(answer.read().decode())
    thread.join()
"""

LOGGING = """
import json, logging, logging.config, socket, struct

thread = logging.config.listen(0)
thread.start()
assert thread.ready.wait(20)
assert issubclass(logging.config.ThreadingTCPServer, facade.BaseServer)
configuration = {"version": 1, "loggers": {"seen": {"level": "ERROR"}}, "disable_existing_loggers": False}
with socket.create_connection(("localhost", thread.port)) as client:
    text = json.dumps(configuration).encode()
    client.sendall(struct.pack(">L", len(text)) + text)
    client.recv(1)  # until it was taken
print(logging.getLogger("seen").level == logging.ERROR)
logging.config.stopListening()
thread.join()
"""

USERS = {
    "http.server": (HTTP, ["HTTPServer", "ThreadingHTTPServer"]),
    "xmlrpc.server": (XMLRPC, ["32"]),
    "wsgiref.simple_server": (WSGI, ["/path"]),
    "logging.config": (LOGGING, ["True"]),
}


@pytest.mark.parametrize("user", USERS)
def test_the_standard_library_stands_on_it(script: Any, user: str) -> None:
    """Modules imported after `install` subclass the facade, and serve."""
    text, expected = USERS[user]
    assert lines_of(script(INSTALL + text)) == expected


def test_a_strategy_of_ours_under_http_server(script: Any) -> None:
    """`ThreadPoolMixIn` in front of the interpreter's `HTTPServer`."""
    text = HTTP.replace(
        "for server_class in (http.server.HTTPServer, http.server.ThreadingHTTPServer):",
        "class Pooled(facade.ThreadPoolMixIn, http.server.HTTPServer): workers = 3\n\nfor server_class in (Pooled,):",
    )
    assert lines_of(script(INSTALL + text)) == ["Pooled"]


@pytest.mark.parametrize(
    ("before", "holders"),
    [
        ("import socketserver", "__main__"),
        ("from socketserver import TCPServer as base", "__main__"),
        ("from http.server import HTTPServer as base", "__main__, http.server"),
        ("import logging.config", "logging.config"),
        ("import xmlrpc.server", "http.server, xmlrpc.server"),
    ],
)
def test_too_late(script: Any, before: str, holders: str) -> None:
    """It says which modules hold the original, or something that stands on it, and changes nothing."""
    program = script(
        f"""
        import sys
        {before}
        from tricorn import socketserver as facade
        from tricorn.errors import StateError
        try:
            facade.install()
        except StateError as error:
            print(error)
        print(sys.modules["socketserver"].__name__)
        """
    )
    first, second = lines_of(program)
    assert f"in use by {holders};" in first
    assert second == "socketserver"


def test_importing_the_facade_does_not_import_the_original(script: Any) -> None:
    """Or `install` would always be too late."""
    program = script("import sys; from tricorn import socketserver; print('socketserver' in sys.modules)")
    assert lines_of(program) == ["False"]
