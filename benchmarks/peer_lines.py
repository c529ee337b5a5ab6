"""Peers that echo lines: asyncio and uvloop, as a Protocol and with streams, and gevent.

    python benchmarks/peer_lines.py uvloop

The same contract as ``server.py``: prints ``READY tcp:<address>``, and ends on SIGTERM.  Each has the limit on a line's
length that Tricorn has.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

KINDS = ("asyncio", "asyncio-streams", "uvloop", "uvloop-streams", "gevent")
MAX_LINE = 65_536
BACKLOG = 1024


class Echo(asyncio.Protocol):
    """The quick way."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        lines = data.split(b"\n")
        self.rest = lines.pop()
        if len(self.rest) > MAX_LINE:
            self.transport.close()
        elif lines:
            self.transport.write(b"".join([line + b"\n" for line in lines]))

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The comfortable way."""
    try:
        while True:
            writer.write(await reader.readuntil(b"\n"))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(kind: str) -> None:
    """For ever."""
    if kind.endswith("streams"):
        server = await asyncio.start_server(echo_stream, "127.0.0.1", 0, backlog=BACKLOG, limit=MAX_LINE)
    else:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=BACKLOG)
    tell(server.sockets[0])
    await asyncio.Event().wait()


def serve_gevent() -> None:
    """For ever."""
    from gevent import socket as green
    from gevent.server import StreamServer

    def echo(sock: green.socket, address: object) -> None:
        with sock.makefile("rb") as lines:
            for line in iter(lambda: lines.readline(MAX_LINE), b""):
                sock.sendall(line)

    server = StreamServer(("127.0.0.1", 0), echo, backlog=BACKLOG)
    server.start()
    tell(server.socket)
    server.serve_forever()


def tell(listening: socket.socket) -> None:
    """Where clients can reach it."""
    host, port = listening.getsockname()
    print(f"READY tcp:{host}:{port}", flush=True)


def main() -> None:
    """Serve until SIGTERM."""
    kind = sys.argv[1]
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    if kind == "gevent":
        serve_gevent()
    elif kind.startswith("uvloop"):
        import uvloop

        uvloop.run(serve(kind))
    else:
        asyncio.run(serve(kind))


if __name__ == "__main__":
    main()
