"""The same service by others, for their columns: `socketserver` as documented, asyncio's streams, gevent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["PEERS", "serve"]

Answer = Callable[[bytes], bytes]
#: By the names of their columns.
PEERS = ("stdlib-sync", "stdlib-thread", "stdlib-fork", "peer-asyncio", "peer-gevent")


def _ready(address: object) -> None:
    print("ready", json.dumps(address), flush=True)


def _ended() -> None:
    print("report", json.dumps({"clean": True, "text": "", "left": 0}), flush=True)


def serve(name: str, transport: str, answer: Answer) -> None:
    """Until SIGTERM, which ends it as its documentation says."""
    kind, _, rest = transport.partition(":")
    if kind not in ("tcp", "unix", "udp"):
        raise SystemExit(f"{name} is not tried over {kind}")
    address: Any = rest if kind == "unix" else ("127.0.0.1", 0)
    if name.startswith("stdlib"):
        _socketserver(name, kind, address, answer)
    elif kind != "tcp":
        raise SystemExit(f"{name} is not tried over {kind}")
    else:
        (_asyncio if name == "peer-asyncio" else _gevent)(answer)


def _socketserver(name: str, kind: str, address: Any, answer: Answer) -> None:
    class Lines(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                self.wfile.write(answer(line))

    class Packets(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request[1].sendto(answer(self.request[0]), self.client_address)

    mix_in = {"thread": "Threading", "fork": "Forking", "sync": ""}[name.partition("-")[2]]
    base = {"tcp": "TCPServer", "unix": "UnixStreamServer", "udp": "UDPServer"}[kind]
    server = getattr(socketserver, mix_in + base)(address, Packets if kind == "udp" else Lines)
    signal.signal(signal.SIGTERM, lambda number, frame: threading.Thread(target=server.shutdown).start())
    _ready(server.server_address)
    server.serve_forever()
    server.server_close()
    _ended()


def _asyncio(answer: Answer) -> None:
    async def talk(reader: Any, writer: Any) -> None:
        while line := await reader.readline():
            order, _, rest = line.strip().partition(b" ")
            if order in (b"sleep", b"hang"):
                await asyncio.sleep(float(rest or 3600))
            writer.write(b"slept\n" if order == b"sleep" else answer(line))
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        _ready(server.sockets[0].getsockname())
        await stop.wait()
        server.close()

    asyncio.run(main())
    _ended()


def _gevent(answer: Answer) -> None:
    import gevent
    from gevent.server import StreamServer

    def talk(sock: Any, peer: Any) -> None:
        with sock, sock.makefile("rb") as file:
            for line in file:
                order, _, rest = line.strip().partition(b" ")
                if order in (b"sleep", b"hang"):
                    gevent.sleep(float(rest or 3600))
                sock.sendall(b"slept\n" if order == b"sleep" else answer(line))

    server = StreamServer(("127.0.0.1", 0), talk)
    server.start()
    gevent.signal_handler(signal.SIGTERM, server.stop, 5)
    _ready(server.address)
    server.serve_forever()
    _ended()
    os._exit(0)
