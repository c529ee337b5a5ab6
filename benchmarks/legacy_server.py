"""One class of the legacy facade, or of the standard library's `socketserver`, for the harness.

    python benchmarks/legacy_server.py facade ThreadingTCPServer
    python benchmarks/legacy_server.py original UDPServer files

Prints ``READY <proto>:<address>``, and ends on SIGTERM.  It imports no more than it must: what a process holds is what
a fork has to copy.
"""

from __future__ import annotations

import os
import signal
import sys

PROTOS = {"TCP": "tcp", "UDP": "udp", "UnixStream": "unix", "UnixDatagram": "unixgram"}
PACKETS = ("udp", "unixgram")
KINDS = ("", "Threading", "Forking")
#: What the generator calls the protocol of each class.
CLASSES = {f"{kind}{row}Server": proto for row, proto in PROTOS.items() for kind in KINDS}
MODULES = ("original", "facade")

#: Bytes of a request, as the generator sends it.
SIZE = 64
BACKLOG = 1024


def handler(proto: str, files: bool) -> type:
    """Echoes one packet, or all that comes until the peer's end."""
    import socketserver

    class EchoStream(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            sock = self.request
            while data := sock.recv(4096):
                sock.sendall(data)

    class EchoPacket(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(data, self.client_address)

    class EchoStreamFiles(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while data := self.rfile.read(SIZE):
                self.wfile.write(data)

    class EchoPacketFiles(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.read())

    bare, with_files = (EchoPacket, EchoPacketFiles) if proto in PACKETS else (EchoStream, EchoStreamFiles)
    return with_files if files else bare


def server_class(name: str) -> type:
    """The class, with a backlog that is not the bottleneck.

    Clients that leave at the end of a burst are not reported: the tracebacks would be what the next burst measures.
    """
    import socketserver

    def handle_error(self: object, request: object, client_address: object) -> None:
        pass

    base = getattr(socketserver, name, None)
    if base is None:  # before 3.12 everybody made the forking Unix servers for themselves
        row = name.removeprefix("Forking")
        base = type(name, (socketserver.ForkingMixIn, getattr(socketserver, row)), {})
    changes = {"request_queue_size": BACKLOG, "allow_reuse_address": True, "handle_error": handle_error}
    return type("Server", (base,), changes)


def main() -> None:
    """Serve until SIGTERM."""
    module, name, *files = sys.argv[1:]
    if module == "facade":
        from tricorn.socketserver import install

        install()
    proto = CLASSES[name]
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"legacy-bench-{os.getpid()}.sock")
    server = server_class(name)(("127.0.0.1", 0) if proto in ("tcp", "udp") else path, handler(proto, bool(files)))

    def stop(number: int, frame: object) -> None:
        if isinstance(address, str) and os.getpid() == serving:
            os.unlink(address)
        os._exit(0)  # not to wait for children or threads with a connection still open

    address, serving = server.server_address, os.getpid()
    signal.signal(signal.SIGTERM, stop)
    where = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else address
    print(f"READY {proto}:{where}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
