"""The sharp edges that a server class has today, each as one fact."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from attrs import frozen

from tricorn.explain.corners import wraps_tls
from tricorn.explain.handlers import Handler
from tricorn.explain.lineage import Lineage, is_socketserver
from tricorn.explain.reading import functions_of, names_used

__all__ = ["Edge", "edges_of"]

_Finder = Callable[[Lineage, Handler], "str | None"]


@frozen
class Edge:
    """One fact of the standard library's behaviour; ``mended`` where `tricorn.socketserver` has none of it."""

    name: str
    fact: str
    mended: bool = False


_FINDERS: list[tuple[str, _Finder, bool]] = []


def edges_of(lineage: Lineage, handler: Handler) -> tuple[Edge, ...]:
    """Those that apply to the class; on the facade, those that are left."""
    return tuple(_found(lineage, handler))


def _found(lineage: Lineage, handler: Handler) -> Iterator[Edge]:
    for name, find, mended in _FINDERS:
        fact = None if mended and lineage.on_facade else find(lineage, handler)
        if fact is not None:
            yield Edge(name, fact, mended)


def _edge(name: str, *, mended: bool = False) -> Callable[[_Finder], _Finder]:
    def register(find: _Finder) -> _Finder:
        _FINDERS.append((name, find, mended))
        return find

    return register


def _threads(lineage: Lineage) -> bool:
    return lineage.mix_in is not None and lineage.mix_in.__name__ == "ThreadingMixIn"


def _forks(lineage: Lineage) -> bool:
    return lineage.mix_in is not None and lineage.mix_in.__name__ == "ForkingMixIn"


@_edge("mix-in-order")
def _mix_in_order(lineage: Lineage, handler: Handler) -> str | None:
    """A mix-in behind the server class."""
    idle = lineage.idle_mix_in
    if idle is None:
        return None
    hider = lineage.in_vain(idle, "process_request")
    assert hider is not None
    return (
        f"{idle.__name__} stands behind {hider.__name__}, whose process_request is found first, so the mix-in has no "
        "effect and requests are served one after the other."
    )


@_edge("one-at-a-time")
def _one_at_a_time(lineage: Lineage, handler: Handler) -> str | None:
    """No mix-in, and no process_request of one's own."""
    owner = lineage.owner("process_request")
    if lineage.mix_in is not None or owner is None or not is_socketserver(owner):
        return None
    return "Requests are served in the accepting thread, so one slow or silent client holds up all others."


@_edge("shutdown-in-handler", mended=True)
def _shutdown(lineage: Lineage, handler: Handler) -> str | None:
    """Who may not call shutdown()."""
    calls = handler.request_class is not None and any(
        {"server", "shutdown"} <= names_used(each)
        for cls in handler.request_class.__mro__
        for each in functions_of(cls)
    )
    remark = f" ({handler.text} calls it)" if calls else ""
    if _forks(lineage):
        return f"shutdown() in a handler{remark} waits for ever, since the child sets the flag in its own memory only."
    where = "from verify_request, service_actions or a signal handler" if _threads(lineage) else "from a handler"
    if not (_threads(lineage) or lineage.mix_in is None):
        where = "in the thread that serves"
    return f"shutdown() {where}{remark} deadlocks: it waits for the very loop that is waiting for it."


@_edge("shutdown-waits", mended=True)
def _shutdown_waits(lineage: Lineage, handler: Handler) -> str | None:
    """Always."""
    return "shutdown() returns only at the next poll, up to poll_interval (0.5 s) later."


@_edge("close-while-serving", mended=True)
def _close(lineage: Lineage, handler: Handler) -> str | None:
    """Always with a socket."""
    if not (lineage.stream or lineage.datagram):
        return None
    return "server_close() without shutdown() leaves serve_forever() polling a closed descriptor with a whole CPU."


@_edge("unbounded-threads")
def _unbounded(lineage: Lineage, handler: Handler) -> str | None:
    """A thread for each request."""
    if not _threads(lineage):
        return None
    return "Each request starts a new thread, without a bound: as many clients, as many threads."


@_edge("joins-without-limit")
def _joins(lineage: Lineage, handler: Handler) -> str | None:
    """``block_on_close``."""
    if _threads(lineage) and not lineage.value("daemon_threads") and lineage.value("block_on_close"):
        return (
            "server_close() joins every thread without a limit (block_on_close), so one idle client blocks it for ever."
        )
    if _threads(lineage) and not lineage.value("daemon_threads"):
        return "The threads are no daemons, so the interpreter waits for each at exit, without a limit."
    if _forks(lineage) and lineage.value("block_on_close"):
        return "server_close() waits for every child without a limit (block_on_close)."
    return None


@_edge("daemon-threads")
def _daemons(lineage: Lineage, handler: Handler) -> str | None:
    """``daemon_threads``."""
    if not (_threads(lineage) and lineage.value("daemon_threads")):
        return None
    return "Its threads are daemons: requests still served when the program ends are cut off in the middle."


@_edge("fork-with-threads")
def _fork_with_threads(lineage: Lineage, handler: Handler) -> str | None:
    """A fork for each request."""
    if not _forks(lineage):
        return None
    return (
        "os.fork() in a program with threads (serve_forever() in one is the documented pattern) can deadlock the "
        "child; Python warns of it since 3.12."
    )


@_edge("fork-keeps-listener")
def _fork_listener(lineage: Lineage, handler: Handler) -> str | None:
    """A fork for each request, on a listening socket."""
    if not (_forks(lineage) and lineage.stream):
        return None
    return "Each child keeps the listening socket open, so the address stays in use while one of them lives."


@_edge("fork-reaps-others", mended=True)
def _fork_reaps(lineage: Lineage, handler: Handler) -> str | None:
    """A fork for each request."""
    if not _forks(lineage):
        return None
    return (
        f"At max_children ({lineage.value('max_children')}) it waits for any child of the program and takes the exit "
        "status from whoever started that."
    )


@_edge("fork-loses-output", mended=True)
def _fork_output(lineage: Lineage, handler: Handler) -> str | None:
    """A fork for each request."""
    if not _forks(lineage):
        return None
    return "A child ends by os._exit(), so what it has printed into a pipe or file is lost."


@_edge("tls-handshake")
def _tls(lineage: Lineage, handler: Handler) -> str | None:
    """A listening socket, or an accepted one, wrapped on the accepting thread."""
    found = wraps_tls(lineage)
    if found is None:
        return None
    return (
        f"{found} wraps a socket with TLS, so the handshake runs in get_request() on the "
        "accepting thread: one silent client stops the server, and a failed handshake leaves no trace."
    )


@_edge("backlog")
def _backlog(lineage: Lineage, handler: Handler) -> str | None:
    """A short queue."""
    size = lineage.value("request_queue_size")
    if not lineage.stream or not isinstance(size, int) or size >= 128:
        return None
    return (
        f"request_queue_size is {size}: the kernel keeps about that many connections, and further clients wait or fail."
    )


@_edge("address-in-use")
def _reuse(lineage: Lineage, handler: Handler) -> str | None:
    """``allow_reuse_address``, and files that stay."""
    if lineage.value("address_family") == getattr(socket, "AF_UNIX", None) and (lineage.stream or lineage.datagram):
        return "The socket's file is never removed, so the next start fails with EADDRINUSE."
    if not lineage.stream or lineage.value("allow_reuse_address"):
        return None
    return "allow_reuse_address is False: a restart fails with EADDRINUSE while old connections are in TIME_WAIT."


@_edge("cut-datagrams")
def _cut(lineage: Lineage, handler: Handler) -> str | None:
    """``max_packet_size``."""
    if not lineage.datagram:
        return None
    return f"Datagrams longer than max_packet_size ({lineage.value('max_packet_size')} bytes) are cut without a sign."


@_edge("empty-reply")
def _empty_reply(lineage: Lineage, handler: Handler) -> str | None:
    """The documented datagram handler."""
    base = handler.request_class
    if base is None or not any(
        is_socketserver(cls) and cls.__name__ == "DatagramRequestHandler" for cls in base.__mro__
    ):
        return None
    return f"{base.__name__} sends an empty datagram where handle() has written nothing."


@_edge("reverse-dns")
def _reverse_dns(lineage: Lineage, handler: Handler) -> str | None:
    """A look-up at bind."""
    users = [
        each
        for each in lineage.users("server_bind", "getfqdn", "gethostbyaddr")
        if not lineage.in_vain(each, "server_bind")
    ]
    if not users:
        return None
    return f"{users[0].__name__}.server_bind asks the DNS for the host's name (getfqdn), which can take half a minute."


@_edge("idle-clients")
def _idle_clients(lineage: Lineage, handler: Handler) -> str | None:
    """No timeout for a peer."""
    base = handler.request_class
    if base is None or not lineage.stream or getattr(base, "timeout", 0) is not None:
        return None
    held = "its thread" if _threads(lineage) else "its child" if _forks(lineage) else "the server"
    return f"{base.__name__}.timeout is None: a client that sends nothing holds {held} for ever."


@_edge("errors-to-stderr")
def _stderr(lineage: Lineage, handler: Handler) -> str | None:
    """The default handle_error."""
    if lineage.overrides("handle_error"):
        return None
    return "handle_error() prints a traceback to standard error, without a time, for every client that went away too."


@_edge("service-actions")
def _service_actions(lineage: Lineage, handler: Handler) -> str | None:
    """Whoever overrides it, and the forking mix-in."""
    owner = lineage.owner("service_actions")
    if owner is None or owner.__name__ == "BaseServer":
        return None
    what = "dead children stay until then" if owner.__name__ == "ForkingMixIn" else "what it does delays accepting"
    return f"{owner.__name__}.service_actions runs after each request and each poll_interval (0.5 s): {what}."


@_edge("raising-hooks")
def _raising(lineage: Lineage, handler: Handler) -> str | None:
    """Hooks whose exceptions nobody catches."""
    hooks = [name for name in ("verify_request", "handle_error", "service_actions") if lineage.overrides(name)]
    return f"An exception in {' or '.join(hooks)} ends serve_forever()." if hooks else None


@_edge("swallowed-errors")
def _swallowed(lineage: Lineage, handler: Handler) -> str | None:
    """A get_request of one's own."""
    if not lineage.overrides("get_request"):
        return None
    return "get_request() runs on the accepting thread, and any OSError that it raises is dropped without a trace."


@_edge("out-of-descriptors", mended=True)
def _descriptors(lineage: Lineage, handler: Handler) -> str | None:
    """Every accepting server."""
    if not lineage.stream:
        return None
    return "Out of file descriptors, accept() fails, is tried again at once, and takes a whole CPU."


@_edge("ignored-timeout")
def _timeout(lineage: Lineage, handler: Handler) -> str | None:
    """A timeout on the server."""
    if lineage.value("timeout") is None or not lineage.sets("timeout"):
        return None
    return f"timeout = {lineage.value('timeout')!r} counts in handle_request() only; serve_forever() ignores it."
