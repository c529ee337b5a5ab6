"""Adds up what datagrams report, one ``name:number`` a packet, and answers with the sum so far.

::

    python examples/udp_collector.py       # on 127.0.0.1:8125
    echo -n apples:3 | nc -u -w1 127.0.0.1 8125

`Sync` serves one packet after the other in the main thread, so the table needs no lock.
"""

from __future__ import annotations

import sys
from collections import defaultdict

from tricorn import Datagram, Server
from tricorn.strategies import Sync
from tricorn.transports import UDP

sums: defaultdict[str, float] = defaultdict(float)


def collect(datagram: Datagram) -> None:
    """The handler: one call for each packet.  What is no report raises, is logged, and costs nobody else anything."""
    name, _, number = datagram.data.decode().partition(":")
    sums[name] += float(number)
    datagram.reply(f"{name}:{sums[name]:g}".encode())


def main(port: int = 8125) -> None:
    """Serve until Ctrl-C or SIGTERM, then print the table."""
    server = Server(UDP("127.0.0.1", port), Sync(), collect)
    server.bind()
    print("serving on {}:{}".format(*server.address), flush=True)
    print(server.serve_forever(signals=True))
    for name, total in sorted(sums.items()):
        print(f"{name}: {total:g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
