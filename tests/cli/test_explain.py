"""``tricorn explain``: what it prints is a program, and that program serves."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tricorn.cli.commands import root, run

PATIENCE = 20.0

#: A module with one of everything: a class named as Tricorn's own, state from three places, hooks.
APP = """
    import socketserver

    class Registry:
        def __init__(self):
            self.table = {"x": "found"}

        def lookup(self, key):
            return self.table.get(key, self.missing)

    class Base(socketserver.TCPServer):
        missing = "missing"
        request_queue_size = 64

        def __init__(self, address, handler, greeting="hello"):
            self.greeting = greeting
            self.__count = 0
            super().__init__(address, handler)

        def verify_request(self, request, client_address):
            return client_address[0] == "127.0.0.1"

        def handle_error(self, request, client_address):
            print("oops")

        def count(self):
            self.__count += 1
            return self.__count

    class Server(socketserver.ThreadingMixIn, Registry, Base):
        daemon_threads = True

        def finish_request(self, request, client_address):
            self.RequestHandlerClass(request, client_address, self, mark="!")

    class Handler(socketserver.StreamRequestHandler):
        def __init__(self, *arguments, mark="?"):
            self.mark = mark
            super().__init__(*arguments)

        def handle(self):
            server = self.server
            if self.rfile.readline() == b"fail\\n":
                raise RuntimeError("as asked")
            text = f"{server.greeting} {server.lookup('x')} {server.lookup('y')} {self.server.count()}{self.mark}"
            self.wfile.write(text.encode())
"""


def printed(*arguments: str, cwd: Path) -> str:
    """What the command prints."""
    command = [sys.executable, "-W", "error", "-m", "tricorn", "explain", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


class Printed:
    """A program that ``explain`` has printed, while it runs."""

    def __init__(self, text: str, cwd: Path) -> None:
        (cwd / "composed.py").write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "composed.py"],
            cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.line = self.read()

    def read(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        return self.process.stdout.readline() if ready else ""

    @property
    def port(self) -> int:
        """Where it serves, by the line that it prints."""
        match = re.fullmatch(r"\('(?:127\.0\.0\.1|::1)', (\d+).*\)\n", self.line)
        assert match, (self.line, self.process.poll(), self.process.stderr and self.process.stderr.read())
        return int(match[1])

    def end(self) -> tuple[int, str, str]:
        """SIGTERM; the status, and what else it has printed."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextmanager
def serving(text: str, cwd: Path, logged: str = "") -> Iterator[Printed]:
    """The printed program serves; it must end well, with nothing in its log but ``logged``."""
    program = Printed(text, cwd)
    try:
        yield program
        status, out, err = program.end()
        assert status == 0, out + err
        assert logged in err if logged else "Traceback" not in err, err
    finally:
        program.process.kill()
        program.process.communicate()


def fetched(port: int, path: str = "/") -> bytes:
    """The body that an HTTP client gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        body: bytes = answer.read()
    return body


def told(port: int, line: bytes) -> bytes:
    """What a line over TCP is answered with."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(line)
        return b"".join(iter(lambda: client.recv(65536), b""))


def called(port: int, path: str = "/RPC2") -> xmlrpc.client.ServerProxy:
    """A client of XML-RPC."""
    return xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}{path}")


@pytest.mark.parametrize("name", ["http.server:ThreadingHTTPServer", "http.server:HTTPServer"])
def test_http_server(name, tmp_path) -> None:
    """The program sends files, and says 404 for others."""
    (tmp_path / "page.txt").write_text("a page\n")
    text = printed(name, cwd=tmp_path)
    assert ("Thread(limit=256)" if "Threading" in name else "Sync()") in text
    assert "functools.partial: partial(SimpleHTTPRequestHandler, directory=...)" in text.replace("\n#     ", " ")
    with serving(text, tmp_path) as program:
        assert fetched(program.port, "/page.txt") == b"a page\n"
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            fetched(program.port, "/none")
        refused.value.close()


@pytest.mark.parametrize("name", ["SimpleXMLRPCServer", "DocXMLRPCServer", "MultiPathXMLRPCServer"])
def test_xmlrpc_server(name, tmp_path) -> None:
    """The program calls the function that is registered, and answers a fault for any other."""
    with serving(printed(f"xmlrpc.server:{name}", cwd=tmp_path), tmp_path) as program:
        with called(program.port) as proxy:
            assert proxy.pow(2, 5) == 32
            with pytest.raises(xmlrpc.client.Fault, match="is not supported"):
                proxy.no_such_function()
        if name == "DocXMLRPCServer":
            assert b"XML-RPC Server Documentation" in fetched(program.port)


def test_xmlrpc_keeps_what_its_constructor_takes(tmp_path) -> None:
    """A subclass's own methods and its order of arguments are carried over."""
    source = """
from xmlrpc.server import SimpleXMLRPCServer

class Calls(SimpleXMLRPCServer):
    def __init__(self, address):
        SimpleXMLRPCServer.__init__(self, address, allow_none=True, logRequests=False)

    def _dispatch(self, method, params):
        return [method, *params]
"""
    (tmp_path / "app.py").write_text(source)
    text = printed("app:Calls", cwd=tmp_path)
    assert "_dispatch = Calls._dispatch" in text
    with serving(text, tmp_path) as program, called(program.port) as proxy:
        assert proxy.anything(1, 2) == ["anything", 1, 2]


def test_wsgi_server(tmp_path) -> None:
    """The demo application is asked, with the environment of the old server."""
    with serving(printed("wsgiref.simple_server:WSGIServer", cwd=tmp_path), tmp_path) as program:
        body = fetched(program.port, "/some/where?a=b").decode()
        port = program.port
    assert body.startswith("Hello world!")
    for line in (f"SERVER_PORT = '{port}'", "PATH_INFO = '/some/where'", "QUERY_STRING = 'a=b'", "SCRIPT_NAME = ''"):
        assert line in body


def test_a_class_of_ones_own(tmp_path, write) -> None:
    """State of a constructor, of a base, of the class; both hooks; and a class that is called as Tricorn's own."""
    write("app", APP)
    text = printed("app:Server", cwd=tmp_path)
    with serving(text, tmp_path, logged="RuntimeError: as asked") as program:
        assert told(program.port, b"\n") == b"hello found missing 1!"
        assert told(program.port, b"\n") == b"hello found missing 2!"
        assert told(program.port, b"fail\n") == b""
        assert program.read().endswith("failed RuntimeError('as asked')\n")


@pytest.mark.parametrize("name", ["TCPServer", "ThreadingTCPServer", "ForkingTCPServer"])
@pytest.mark.parametrize("module", ["socketserver", "tricorn.socketserver"])
def test_without_a_handler_there_is_a_placeholder(module, name, tmp_path) -> None:
    """It answers with the line that it got, whichever module the class is of."""
    text = printed(f"{module}:{name}", cwd=tmp_path)
    assert f", on {'the standard library' if module == 'socketserver' else 'tricorn'}" in text
    with serving(text, tmp_path) as program:
        assert told(program.port, b"hello\n") == b"hello\n"


def test_a_class_that_the_facade_invents(tmp_path) -> None:
    """The dispatcher is the one that the class is named after."""
    text = printed("tricorn.socketserver:ThreadPoolTCPServer", cwd=tmp_path)
    assert "ThreadPool()," in text
    with serving(text, tmp_path) as program:
        assert told(program.port, b"hello\n") == b"hello\n"


@pytest.mark.parametrize("name", ["UnixStreamServer", "UnixDatagramServer"])
def test_unix_sockets(name, tmp_path, monkeypatch) -> None:
    """The program makes the socket's file, answers, and takes it away."""
    kind = socket.SOCK_STREAM if "Stream" in name else socket.SOCK_DGRAM
    monkeypatch.chdir(tmp_path)  # a path longer than a socket's name can be
    with serving(printed(f"socketserver:{name}", cwd=tmp_path), tmp_path) as program:
        assert program.line == "server.sock\n"
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.settimeout(PATIENCE)
            client.bind("client.sock")
            client.connect("server.sock")
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
    assert not (tmp_path / "server.sock").exists()


def test_a_handler_may_be_a_function(tmp_path, write) -> None:
    """It gets the connection."""
    write("app", "def answer(connection):\n    connection.send(connection.recv(100).upper())")
    text = printed("socketserver:ThreadingTCPServer", "--handler", "app:answer", cwd=tmp_path)
    with serving(text, tmp_path) as program:
        assert told(program.port, b"hello\n") == b"HELLO\n"


def test_a_handler_may_be_a_partial(tmp_path, write) -> None:
    """As `http.server` needs it for its folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "page.txt").write_text("a page\n")
    write(
        "app",
        """
        from functools import partial
        from http.server import SimpleHTTPRequestHandler
        files = partial(SimpleHTTPRequestHandler, directory="sub")
        """,
    )
    text = printed("http.server:ThreadingHTTPServer", "--handler", "app:files", cwd=tmp_path)
    with serving(text, tmp_path) as program:
        assert fetched(program.port, "/page.txt") == b"a page\n"


def test_json_has_the_same(tmp_path) -> None:
    """The program, the corners, the overrides and the edges."""
    record = json.loads(printed("http.server:ThreadingHTTPServer", "--json", cwd=tmp_path))
    assert record["bases"] == ["ThreadingHTTPServer", "ThreadingMixIn", "HTTPServer", "TCPServer", "BaseServer"]
    assert (record["transport"], record["dispatcher"]) == ('TCP("127.0.0.1", 0)', "Thread(limit=256)")
    assert (record["handler"], record["stands_on"]) == ("SimpleHTTPRequestHandler", "socketserver")
    assert [(each["cls"], each["method"]) for each in record["overrides"]] == [("HTTPServer", "server_bind")]
    assert {"reverse-dns", "unbounded-threads", "daemon-threads"} <= {each["name"] for each in record["edges"]}
    compile(record["program"], "composed.py", "exec")


def test_the_guide_shows_what_is_printed(tmp_path) -> None:
    """The example of docs/migrating.md, word for word."""
    guide = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert example in printed("http.server:ThreadingHTTPServer", cwd=tmp_path)


def test_the_help_fits_80_columns() -> None:
    """With examples, and the exit statuses."""
    shown = CliRunner().invoke(root, ["explain", "--help"], terminal_width=80).output
    assert max(map(len, shown.splitlines())) <= 80
    assert "Examples:" in shown
    assert "Exit status:" in shown


WRONG = {
    "no class": (["json:dumps"], "it is no class at all, but of type function"),
    "another class": (["decimal:Decimal"], "BaseServer is not among its bases"),
    "a handler": (["http.server:SimpleHTTPRequestHandler"], "is no server class but a request handler"),
    "a module that is none": (["no_such_module:Server"], "there is no module 'no_such_module'"),
    "an attribute that is none": (["http.server:HTTPSever"], "did you mean 'HTTPServer'?"),
    "no attribute": (["http.server"], "is not of the form package.module:attribute"),
    "a handler that is none": (["socketserver:TCPServer", "--handler", "math:pi"], "'math:pi' is no handler"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_server_class_is_told_in_one_line(arguments, words, capsys, monkeypatch) -> None:
    """With status 2, and nothing on standard output."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert run(["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_a_module_that_fails_is_told_with_its_error(start, write) -> None:
    """In one line, too."""
    write("broken", "raise RuntimeError('out of order')")
    ended = start("explain", "broken:Server")
    assert ended.end() == 2
    assert ended.err == "tricorn: error: module 'broken' fails when it is imported: RuntimeError: out of order\n"
