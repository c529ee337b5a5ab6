"""A server put together from three texts, as from a configuration file or a command line.

::

    python examples/names.py tcp://127.0.0.1:9999 'thread-pool?workers=4' echo
    python examples/names.py udp://127.0.0.1:9999 sync echo
    python examples/names.py unix:/tmp/echo.sock thread package.module:handler
    python examples/names.py                      # what is installed

A text that is wrong is refused before anything is opened, in words.
"""

from __future__ import annotations

import sys

from tricorn import ConfigurationError, ListenError, Server
from tricorn.installed import installed_parts


def show_parts() -> None:
    """Every part that can be asked for by name here."""
    for part in installed_parts():
        print(f"{part.kind:<10} {part.written:<28} {part.summary or part.error}")


def serve(transport: str, dispatcher: str, handler: str) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    server = Server(transport, dispatcher, handler)
    server.bind()
    print(f"serving on {server.address}", flush=True)
    print(server.serve_forever(signals=True))


def main(*texts: str) -> None:
    """Three texts, or none."""
    if not texts:
        show_parts()
        return
    if len(texts) != 3:
        sys.exit("three texts are needed: transport dispatcher handler")
    try:
        serve(*texts)
    except (ConfigurationError, ListenError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
