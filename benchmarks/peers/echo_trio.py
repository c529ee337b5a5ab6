"""An echo by trio.

python benchmarks/peers/echo_trio.py --proto udp
"""

from __future__ import annotations

import argparse
import socket

import trio
from contract import SLEEP_S, WORKS, arguments, listening_socket, tell


async def serve_packets(sock: trio.socket.SocketType) -> None:
    """For ever."""
    while True:
        data, address = await sock.recvfrom(65536)
        await sock.sendto(data, address)


async def serve(given: argparse.Namespace, listening: socket.socket) -> None:
    """For ever."""
    work = WORKS[given.work]

    async def echo(stream: trio.SocketStream) -> None:
        try:
            while data := await stream.receive_some(given.bufsize):
                if given.work == "sleep":
                    await trio.sleep(SLEEP_S)
                elif work:
                    work(data)
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    sock = trio.socket.from_stdlib_socket(listening)
    tell(given.proto, listening.getsockname())
    if given.proto in ("udp", "unixgram"):
        await serve_packets(sock)
    else:
        await trio.serve_listeners(echo, [trio.SocketListener(sock)])


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments(__doc__, protos=("tcp", "unix", "udp", "unixgram"))
    sock = listening_socket(given.proto, given.backlog)
    sock.setblocking(False)
    trio.run(serve, given, sock)


if __name__ == "__main__":
    main()
