"""An echo by Twisted, on its epoll reactor.

python benchmarks/peers/echo_twisted.py --framing lines
"""

from __future__ import annotations

import argparse
import os
import tempfile

from contract import MAX_LINE, SLEEP_S, WORKS, arguments, tell
from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import protocol, reactor  # noqa: E402 - the reactor that was installed
from twisted.protocols.basic import LineOnlyReceiver  # noqa: E402


class EchoBytes(protocol.Protocol):
    """Sends back whatever comes, and reads no more while the peer does not take it."""

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.transport.write(data)


class EchoLater(EchoBytes):
    """The same after a while."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        reactor.callLater(SLEEP_S, self.transport.write, data)


class EchoComputed(EchoBytes):
    """The same after a millisecond of arithmetic."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.transport.write(WORKS["cpu"](data))


class EchoLines(LineOnlyReceiver):
    """Sends back whole lines."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        self.sendLine(line)


class EchoPackets(protocol.DatagramProtocol):
    """Sends back each packet."""

    def datagramReceived(self, data: bytes, address: object) -> None:  # noqa: N802
        self.transport.write(data, address)


def listen(given: argparse.Namespace) -> tuple[str, int] | str:
    """Where clients can reach it."""
    if given.proto == "udp":
        return ("127.0.0.1", reactor.listenUDP(0, EchoPackets(), "127.0.0.1").getHost().port)
    factory = protocol.ServerFactory()
    kinds = {"echo": EchoBytes, "cpu": EchoComputed, "sleep": EchoLater}
    factory.protocol = EchoLines if given.framing == "lines" else kinds[given.work]
    factory.noisy = False
    if given.proto == "tcp":
        return ("127.0.0.1", reactor.listenTCP(0, factory, given.backlog, "127.0.0.1").getHost().port)
    path = os.path.join(tempfile.gettempdir(), f"peer-bench-{os.getpid()}.sock")
    reactor.listenUNIX(path, factory, given.backlog)
    return path


def main() -> None:
    """Serve until SIGTERM."""
    given = arguments(__doc__, protos=("tcp", "unix", "udp"))
    address = listen(given)
    reactor.callWhenRunning(tell, given.proto, address)
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
