"""The examples of the module's documentation, on the facade: each server and each client a program of its own.

They are written after what the documentation shows; what they print is what it prints.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable

import pytest

Start = Callable[..., subprocess.Popen[str]]

#: Seconds that one step may take.
PATIENCE_S = 20

#: What all servers share: the facade is installed, so that the old import finds it; the port is told on standard error,
#: and SIGTERM takes the place of Ctrl-C.
PREAMBLE = """
import signal, sys
from tricorn.socketserver import install
install()
signal.signal(signal.SIGTERM, signal.default_int_handler)

def told(server):
    sys.stdout.reconfigure(line_buffering=True)
    print(server.server_address[1], file=sys.stderr, flush=True)
    return server

"""

TCP_SERVER = """
import socketserver

class MyTCPHandler(socketserver.BaseRequestHandler):
    def handle(self):
        # one recv: whatever the client's one sendall() brought
        self.data = self.request.recv(1024).strip()
        print("{} wrote:".format(self.client_address[0]))
        print(self.data)
        self.request.sendall(self.data.upper())

if __name__ == "__main__":
    with told(socketserver.TCPServer(("localhost", 0), MyTCPHandler)) as server:
        server.serve_forever()
"""

STREAM_SERVER = """
import socketserver

class MyTCPHandler(socketserver.StreamRequestHandler):
    def handle(self):
        # as many recv() as a line takes
        self.data = self.rfile.readline().strip()
        print("{} wrote:".format(self.client_address[0]))
        print(self.data)
        self.wfile.write(self.data.upper())

if __name__ == "__main__":
    with told(socketserver.TCPServer(("localhost", 0), MyTCPHandler)) as server:
        server.serve_forever()
"""

UDP_SERVER = """
import socketserver

class MyUDPHandler(socketserver.BaseRequestHandler):
    def handle(self):
        data = self.request[0].strip()
        socket = self.request[1]
        print("{} wrote:".format(self.client_address[0]))
        print(data)
        socket.sendto(data.upper(), self.client_address)

if __name__ == "__main__":
    with told(socketserver.UDPServer(("localhost", 0), MyUDPHandler)) as server:
        server.serve_forever()
"""

DATAGRAM_FILES_SERVER = """
import socketserver

class MyUDPHandler(socketserver.DatagramRequestHandler):
    def handle(self):
        data = self.rfile.readline().strip()
        print("{} wrote:".format(self.client_address[0]))
        print(data)
        self.wfile.write(data.upper())

if __name__ == "__main__":
    with told(socketserver.UDPServer(("localhost", 0), MyUDPHandler)) as server:
        server.serve_forever()
"""

TCP_CLIENT = """
import socket, sys

port, data = int(sys.argv[1]), " ".join(sys.argv[2:])
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
    sock.settimeout(20)
    sock.connect(("localhost", port))
    sock.sendall(bytes(data + "\\n", "utf-8"))
    received = str(sock.recv(1024), "utf-8")
print("Sent: {}".format(data))
print("Received: {}".format(received))
"""

UDP_CLIENT = """
import socket, sys

port, data = int(sys.argv[1]), " ".join(sys.argv[2:])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(20)
    sock.sendto(bytes(data + "\\n", "utf-8"), ("localhost", port))
    received = str(sock.recv(1024), "utf-8")
print("Sent: {}".format(data))
print("Received: {}".format(received))
"""

#: As "Asynchronous Mixins" has it: server, clients and the end in one program.
THREADED_SERVER = """
import socket, socketserver, threading

class ThreadedTCPRequestHandler(socketserver.BaseRequestHandler):
    def handle(self):
        data = str(self.request.recv(1024), "ascii")
        cur_thread = threading.current_thread()
        response = bytes("{}: {}".format(cur_thread.name, data), "ascii")
        self.request.sendall(response)

class ThreadedTCPServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    pass

def client(ip, port, message):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        sock.connect((ip, port))
        sock.sendall(bytes(message, "ascii"))
        response = str(sock.recv(1024), "ascii")
        print("Received: {}".format(response))

if __name__ == "__main__":
    server = ThreadedTCPServer(("localhost", 0), ThreadedTCPRequestHandler)
    ip, port = server.server_address
    server_thread = threading.Thread(target=server.serve_forever)
    server_thread.daemon = True
    server_thread.start()
    print("Server loop running in thread:", server_thread.name)
    client(ip, port, "Hello World 1")
    client(ip, port, "Hello World 2")
    client(ip, port, "Hello World 3")
    server.shutdown()
    server.server_close()
"""

FORKING_SERVER = """
import os, socketserver

class ForkedTCPRequestHandler(socketserver.BaseRequestHandler):
    def handle(self):
        data = str(self.request.recv(1024), "ascii").strip()
        self.request.sendall(bytes("{}: {}".format(os.getpid(), data), "ascii"))

class ForkedTCPServer(socketserver.ForkingMixIn, socketserver.TCPServer):
    pass

if __name__ == "__main__":
    with told(ForkedTCPServer(("localhost", 0), ForkedTCPRequestHandler)) as server:
        server.serve_forever()
"""

SERVERS = {
    "TCPServer": (TCP_SERVER, TCP_CLIENT),
    "TCPServer, by files": (STREAM_SERVER, TCP_CLIENT),
    "UDPServer": (UDP_SERVER, UDP_CLIENT),
    "UDPServer, by files": (DATAGRAM_FILES_SERVER, UDP_CLIENT),
}

#: What the documentation shows of the two programs' windows, after both clients.
WORDS = ("hello world with TCP", "python is nice")
SERVER_OUTPUT = """\
127.0.0.1 wrote:
b'hello world with TCP'
127.0.0.1 wrote:
b'python is nice'
"""
CLIENT_OUTPUT = """\
Sent: hello world with TCP
Received: HELLO WORLD WITH TCP
Sent: python is nice
Received: PYTHON IS NICE
"""


def stopped(server: subprocess.Popen[str]) -> str:
    """What the server printed until Ctrl-C ended it, as it should."""
    server.terminate()
    output, errors = server.communicate(timeout=PATIENCE_S)
    assert errors.endswith("KeyboardInterrupt\n"), errors
    return output


def client_output(script: Start, client: str, *arguments: object) -> str:
    """What a client printed."""
    output, errors = script(client, *arguments).communicate(timeout=PATIENCE_S)
    assert errors == ""
    return output


@pytest.mark.parametrize("name", SERVERS)
def test_server_and_client_print_what_is_documented(script: Start, name: str) -> None:
    """Both clients' words, in both windows."""
    server_text, client_text = SERVERS[name]
    server = script(PREAMBLE + server_text)
    port = int(server.stderr.readline())
    assert "".join(client_output(script, client_text, port, *words.split()) for words in WORDS) == CLIENT_OUTPUT
    assert stopped(server) == SERVER_OUTPUT


def test_one_recv_takes_what_was_sent_at_once(script: Start) -> None:
    """The first handler replies to half a line."""
    server = script(PREAMBLE + TCP_SERVER)
    with socket.create_connection(("127.0.0.1", int(server.stderr.readline())), timeout=PATIENCE_S) as sock:
        sock.sendall(b"hello")
        assert sock.recv(1024) == b"HELLO"
    assert stopped(server) == "127.0.0.1 wrote:\nb'hello'\n"


def test_readline_waits_for_the_newline(script: Start) -> None:
    """The second handler calls ``recv()`` until it has the whole line."""
    server = script(PREAMBLE + STREAM_SERVER)
    with socket.create_connection(("127.0.0.1", int(server.stderr.readline())), timeout=PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        for part in (b"hel", b"lo wor", b"ld\n"):
            sock.sendall(part)
        assert sock.recv(1024) == b"HELLO WORLD"
    assert stopped(server) == "127.0.0.1 wrote:\nb'hello world'\n"


def test_threaded_server_prints_what_is_documented(script: Start) -> None:
    """The loop in one thread, each request in a further one, the next for the next; then it ends by itself."""
    output, errors = script(PREAMBLE + THREADED_SERVER).communicate(timeout=PATIENCE_S)
    assert errors == ""
    lines = output.splitlines()
    assert re.fullmatch(r"Server loop running in thread: Thread-1( \(serve_forever\))?", lines[0])
    for number, line in enumerate(lines[1:], 1):
        # since 3.10 a thread's name tells what it runs
        name = rf"Thread-{number + 1}( \(process_request_thread\))?"
        assert re.fullmatch(rf"Received: {name}: Hello World {number}", line)
    assert len(lines) == 4


def test_forking_mix_in_is_used_in_the_same_way(script: Start) -> None:
    """Each request is served by a process of its own, which is not the server's."""
    server = script(PREAMBLE + FORKING_SERVER)
    port = int(server.stderr.readline())
    served_by = [client_output(script, TCP_CLIENT, port, "Hello").splitlines()[1] for _ in range(3)]
    numbers = [int(re.fullmatch(r"Received: (\d+): Hello", line)[1]) for line in served_by]
    assert len({*numbers, server.pid}) == 4
    assert stopped(server) == ""
