# For type checkers.  The classes are those of `socketserver` itself, so that annotations, overrides and mixtures with
# `http.server` and its kin keep working.

import sys
from socket import socket
from socketserver import BaseRequestHandler as BaseRequestHandler
from socketserver import BaseServer as BaseServer
from socketserver import DatagramRequestHandler as DatagramRequestHandler
from socketserver import StreamRequestHandler as StreamRequestHandler
from socketserver import TCPServer as TCPServer
from socketserver import ThreadingMixIn as ThreadingMixIn
from socketserver import ThreadingTCPServer as ThreadingTCPServer
from socketserver import ThreadingUDPServer as ThreadingUDPServer
from socketserver import UDPServer as UDPServer
from typing import Any, TypeAlias

from tricorn.contracts import Dispatcher

if sys.platform != "win32":
    from socketserver import ForkingMixIn as ForkingMixIn
    from socketserver import ForkingTCPServer as ForkingTCPServer
    from socketserver import ForkingUDPServer as ForkingUDPServer
    from socketserver import ThreadingUnixDatagramServer as ThreadingUnixDatagramServer
    from socketserver import ThreadingUnixStreamServer as ThreadingUnixStreamServer
    from socketserver import UnixDatagramServer as UnixDatagramServer
    from socketserver import UnixStreamServer as UnixStreamServer

    if sys.version_info >= (3, 12):
        from socketserver import ForkingUnixDatagramServer as ForkingUnixDatagramServer
        from socketserver import ForkingUnixStreamServer as ForkingUnixStreamServer
    else:
        class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer): ...
        class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer): ...

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "UDPServer",
]
if sys.platform != "win32":
    __all__ += [
        "ForkingMixIn",
        "ForkingTCPServer",
        "ForkingUDPServer",
        "ForkingUnixDatagramServer",
        "ForkingUnixStreamServer",
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]

def install() -> None: ...

_Request: TypeAlias = socket | tuple[bytes, socket]

# The further classes of the dispatchers that come with Tricorn.

class SyncMixIn:
    def process_request(self, request: _Request, client_address: Any) -> None: ...
    def server_close(self) -> None: ...

class SyncTCPServer(SyncMixIn, TCPServer): ...
class SyncUDPServer(SyncMixIn, UDPServer): ...

class ThreadMixIn:
    limit: int
    def process_request(self, request: _Request, client_address: Any) -> None: ...
    def server_close(self) -> None: ...

class ThreadTCPServer(ThreadMixIn, TCPServer): ...
class ThreadUDPServer(ThreadMixIn, UDPServer): ...

class ThreadPoolMixIn:
    workers: int
    park_idle: bool
    def process_request(self, request: _Request, client_address: Any) -> None: ...
    def server_close(self) -> None: ...

class ThreadPoolTCPServer(ThreadPoolMixIn, TCPServer): ...
class ThreadPoolUDPServer(ThreadPoolMixIn, UDPServer): ...

if sys.platform != "win32":
    class ForkMixIn:
        max_children: int
        def process_request(self, request: _Request, client_address: Any) -> None: ...
        def server_close(self) -> None: ...

    class ForkTCPServer(ForkMixIn, TCPServer): ...
    class ForkUDPServer(ForkMixIn, UDPServer): ...

    class ProcessPoolMixIn:
        inner: Dispatcher
        workers: int
        max_jobs: int | None
        jitter: int
        max_age: float | None
        max_memory: int | None
        hang_timeout: float | None
        start_attempts: int
        def process_request(self, request: _Request, client_address: Any) -> None: ...
        def server_close(self) -> None: ...

    class ProcessPoolTCPServer(ProcessPoolMixIn, TCPServer): ...
    class ProcessPoolUDPServer(ProcessPoolMixIn, UDPServer): ...
    class SyncUnixStreamServer(SyncMixIn, UnixStreamServer): ...
    class SyncUnixDatagramServer(SyncMixIn, UnixDatagramServer): ...
    class ThreadUnixStreamServer(ThreadMixIn, UnixStreamServer): ...
    class ThreadUnixDatagramServer(ThreadMixIn, UnixDatagramServer): ...
    class ThreadPoolUnixStreamServer(ThreadPoolMixIn, UnixStreamServer): ...
    class ThreadPoolUnixDatagramServer(ThreadPoolMixIn, UnixDatagramServer): ...
    class ForkUnixStreamServer(ForkMixIn, UnixStreamServer): ...
    class ForkUnixDatagramServer(ForkMixIn, UnixDatagramServer): ...
    class ProcessPoolUnixStreamServer(ProcessPoolMixIn, UnixStreamServer): ...
    class ProcessPoolUnixDatagramServer(ProcessPoolMixIn, UnixDatagramServer): ...

# Those of other distributions' dispatchers.
def __getattr__(name: str) -> Any: ...
