"""How soon a server is there: what its imports take, and the time from the start of a process to the first byte back.

    python benchmarks/startup.py                      every server that is installed
    python benchmarks/startup.py thread-pool asyncio

``import`` is measured inside a fresh interpreter, around the imports that such a server needs; ``first byte`` from
outside, from the start of a small program of the kind that documentation has to the byte that a client gets back from
it.  The programs are as short as their projects allow, so that nothing but the project is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import socket
import subprocess
import sys
import time
from statistics import median

from harness import SERVER_CPU, end_on_sigterm, environment, pinned

__all__ = ["PROGRAMS", "first_byte_ms", "import_ms", "installed"]

#: How often each is measured; the median counts.
REPETITIONS = 5

_COMPOSED = """
def echo(connection):
    while data := connection.recv(4096):
        connection.send(data)
with Server(TCP("127.0.0.1", 0), {dispatcher}, echo) as server:
    print(server.address[1], flush=True)
    server.serve_forever()
"""
_SELECTOR = """
@message(Lines())
def echo(line):
    return line
with Server(TCP("127.0.0.1", 0), Selector(), echo) as server:
    print(server.address[1], flush=True)
    server.serve_forever()
"""
_SOCKETSERVER = """
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""
_ASYNCIO = """
async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
{run}(main())
"""
_GEVENT = """
def echo(sock, address):
    while data := sock.recv(4096):
        sock.sendall(data)
server = StreamServer(("127.0.0.1", 0), echo)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
"""
_TWISTED = """
class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)
factory = protocol.ServerFactory()
factory.protocol = Echo
print(reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port, flush=True)
reactor.run()
"""
_TRIO = """
async def echo(stream):
    while data := await stream.receive_some(4096):
        await stream.send_all(data)
async def main():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(echo, listeners)
trio.run(main)
"""
_TRICORN = "from tricorn import Server\nfrom tricorn.transports import TCP\nfrom tricorn.strategies import "

#: The package, the imports, and the rest of a program, by the contender's name.
PROGRAMS: dict[str, tuple[str, str, str]] = {
    "sync": ("tricorn", _TRICORN + "Sync", _COMPOSED.format(dispatcher="Sync()")),
    "thread": ("tricorn", _TRICORN + "Thread", _COMPOSED.format(dispatcher="Thread()")),
    "thread-pool": ("tricorn", _TRICORN + "ThreadPool", _COMPOSED.format(dispatcher="ThreadPool()")),
    "selector": ("tricorn", _TRICORN + "Selector\nfrom tricorn.handlers import Lines, message", _SELECTOR),
    "ss-thread": ("socketserver", "import socketserver", _SOCKETSERVER),
    "asyncio": ("asyncio", "import asyncio", _ASYNCIO.format(run="asyncio.run")),
    "uvloop": ("uvloop", "import asyncio, uvloop", _ASYNCIO.format(run="uvloop.run")),
    "gevent": ("gevent", "from gevent.server import StreamServer", _GEVENT),
    "twisted": ("twisted", "from twisted.internet import protocol, reactor", _TWISTED),
    "trio": ("trio", "import trio", _TRIO),
}


def installed(name: str) -> bool:
    """Whether this environment has what it needs."""
    return importlib.util.find_spec(PROGRAMS[name][0]) is not None


def import_ms(name: str) -> float:
    """What the imports take."""
    clock = "import time\n_began = time.perf_counter()\n"
    program = f"{clock}{PROGRAMS[name][1]}\nprint(time.perf_counter() - _began)"
    return 1e3 * median(float(_run(program)) for _ in range(REPETITIONS))


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
        env=environment(),
        preexec_fn=pinned(SERVER_CPU),
    )
    return done.stdout


def first_byte_ms(name: str) -> float:
    """From the start of the process to the first byte that it sends back."""
    return 1e3 * median(_first_byte(name) for _ in range(REPETITIONS))


def _first_byte(name: str) -> float:
    _, imports, rest = PROGRAMS[name]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", imports + rest],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=pinned(SERVER_CPU),
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
                sock.sendall(b"x\n")
                if sock.recv(1) != b"x":
                    raise RuntimeError(f"{name} gave a wrong answer")
            return time.perf_counter() - began
        finally:
            process.kill()


def main() -> None:
    """Measure, and print."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=list(PROGRAMS), metavar="server", help=", ".join(PROGRAMS))
    given = parser.parse_args()
    print("| server | import ms | first byte ms |", "|---|--:|--:|", sep="\n")
    for name in given.servers:
        if installed(name):
            import_ms(name)  # compiles what is not yet compiled
            print(f"| {name} | {import_ms(name):.1f} | {first_byte_ms(name):.1f} |", flush=True)


if __name__ == "__main__":
    main()
