"""An echo by asyncio: as a Protocol, which is the quick way, or with streams; on its own loop, or on uvloop's.

python benchmarks/peers/echo_asyncio.py --kind uvloop --framing lines
"""

from __future__ import annotations

import argparse
import asyncio
import socket

from contract import MAX_LINE, SLEEP_S, WORKS, arguments, compute, listening_socket, tell

KINDS = ("asyncio", "asyncio-streams", "uvloop", "uvloop-streams")


class EchoLines(asyncio.Protocol):
    """Sends back whole lines."""

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


class EchoBytes(EchoLines):
    """Sends back whatever comes."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoComputed(EchoBytes):
    """The same after a millisecond of arithmetic."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(compute(data))


class EchoLater(EchoBytes):
    """The same after a while."""

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(SLEEP_S, self.answer, data)

    def answer(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)


class EchoPackets(asyncio.DatagramProtocol):
    """Sends back each packet."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: object) -> None:
        self.transport.sendto(data, address)


def protocol_of(given: argparse.Namespace) -> type[asyncio.Protocol]:
    """The protocol that the command line asks for."""
    if given.framing == "lines":
        return EchoLines
    return {"echo": EchoBytes, "cpu": EchoComputed, "sleep": EchoLater}[given.work]


def stream_handler(given: argparse.Namespace) -> object:
    """The comfortable way."""
    work, lines = WORKS[given.work], given.framing == "lines"

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await (reader.readuntil(b"\n") if lines else reader.read(given.bufsize)):
                if given.work == "sleep":
                    await asyncio.sleep(SLEEP_S)
                elif work:
                    work(data)
                writer.write(data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return echo


async def serve(given: argparse.Namespace, sock: socket.socket) -> None:
    """For ever."""
    loop = asyncio.get_running_loop()
    if sock.type == socket.SOCK_DGRAM:
        await loop.create_datagram_endpoint(EchoPackets, sock=sock)
    elif given.kind.endswith("streams"):
        start = asyncio.start_unix_server if given.proto == "unix" else asyncio.start_server
        await start(stream_handler(given), sock=sock, backlog=given.backlog, limit=MAX_LINE)
    else:
        start = loop.create_unix_server if given.proto == "unix" else loop.create_server
        await start(protocol_of(given), sock=sock, backlog=given.backlog)
    tell(given.proto, sock.getsockname())
    await asyncio.Event().wait()


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments(__doc__, KINDS, ("tcp", "unix", "udp", "unixgram"))
    sock = listening_socket(given.proto, given.backlog)
    sock.setblocking(False)
    if given.kind.startswith("uvloop"):
        import uvloop

        uvloop.run(serve(given, sock))
    else:
        asyncio.run(serve(given, sock))


if __name__ == "__main__":
    main()
