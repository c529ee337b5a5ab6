"""A thread for each request, as a mix-in."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ThreadingMixIn"]


class _Threads(list):  # type: ignore[type-arg]  # list[...] would leave a mark on the class
    """The threads that ``server_close`` waits for."""

    def append(self, thread: threading.Thread) -> None:
        """Remember ``thread``, and forget those that have ended; daemons are nobody's concern."""
        self.reap()
        if not thread.daemon:
            super().append(thread)

    def pop_all(self) -> list[threading.Thread]:
        """All of them; none is left."""
        self[:], taken = [], self[:]
        return taken

    def join(self) -> None:
        """Wait for all."""
        for thread in self.pop_all():
            thread.join()

    def reap(self) -> None:
        """Forget those that have ended."""
        self[:] = (thread for thread in self if thread.is_alive())


class _NoThreads:
    """Remembers nothing, for servers that do not wait."""

    def append(self, thread: threading.Thread) -> None:
        """Nothing."""

    def join(self) -> None:
        """Nothing."""


class ThreadingMixIn:
    """Serves each request in a new thread.  Comes before the server class: ``class S(ThreadingMixIn, TCPServer)``."""

    #: Whether the program may end while requests are served.
    daemon_threads = False
    #: Whether ``server_close`` waits for the threads (never for daemons).
    block_on_close = True
    _threads: Any = _NoThreads()

    def process_request_thread(self: Any, request: Any, client_address: Any) -> None:
        """In the new thread: serve the request, report what it raises, close it."""
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        """Start a thread on the request."""
        if self.block_on_close:
            vars(self).setdefault("_threads", _Threads())
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address))
        thread.daemon = self.daemon_threads
        thread.start()
        self._threads.append(thread)  # not before it runs: one that cannot start could never be joined

    def server_close(self: Any) -> None:
        """Close the server, then wait for its threads."""
        super().server_close()  # type: ignore[misc]  # the class that it is mixed with has it
        self._threads.join()
