"""An echo by AnyIO, on asyncio.

python benchmarks/peers/echo_anyio.py --proto unix
"""

from __future__ import annotations

import argparse
import os
import tempfile

import anyio
import anyio.abc
from contract import SLEEP_S, WORKS, arguments, tell


async def serve_packets() -> None:
    """For ever."""
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as sock:
        tell("udp", sock.extra(anyio.abc.SocketAttribute.local_address))
        async for data, (host, port) in sock:
            await sock.sendto(data, host, port)


async def serve(given: argparse.Namespace) -> None:
    """For ever."""
    work = WORKS[given.work]

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                while True:
                    data = await stream.receive(given.bufsize)
                    if given.work == "sleep":
                        await anyio.sleep(SLEEP_S)
                    elif work:
                        work(data)
                    await stream.send(data)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    if given.proto == "udp":
        await serve_packets()
    elif given.proto == "tcp":
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=given.backlog)
        tell("tcp", listener.extra(anyio.abc.SocketAttribute.local_address))
        await listener.serve(echo)
    else:
        path = os.path.join(tempfile.gettempdir(), f"peer-bench-{os.getpid()}.sock")
        listener = await anyio.create_unix_listener(path, backlog=given.backlog)
        tell("unix", path)
        await listener.serve(echo)


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments(__doc__, protos=("tcp", "unix", "udp"))
    anyio.run(serve, given)


if __name__ == "__main__":
    main()
