"""The methods that `socketserver` documents for overriding, and where each goes."""

from __future__ import annotations

from attrs import frozen

from tricorn.explain.lineage import Lineage

__all__ = ["DOCUMENTED", "GOES_TO", "Override", "overrides_of"]

GOES_TO = {
    "__init__": "what it sets on self: attributes of a State (a ServerView) that the handlers get; options of the "
    "socket: the transport's arguments",
    "server_bind": "the transport's options (Server.bind binds; server_name and server_port are on every ServerView)",
    "server_activate": "the transport's options, such as backlog=",
    "server_close": "after the with block of the Server, or an observer of ServerClosed",
    "fileno": "nothing: the listener has the descriptor, and nobody outside polls it",
    "serve_forever": "Server.serve_forever(), or start() for a thread; it returns a DrainReport",
    "service_actions": "a thread of your own beside the server, or an observer where it follows an event; there is no "
    "poll interval",
    "shutdown": "Server.request_stop(), which never blocks, or drain(timeout), which reports",
    "handle_request": "Server.handle_request(timeout)",
    "handle_timeout": "the return value of Server.handle_request(timeout): False if no request came",
    "_handle_request_noblock": "nothing of yours: the intake accepts, verifies and contains errors",
    "get_request": "a transport (its listener's accept(), which must not block)",
    "verify_request": "Server(verify=...), called with the request on the accepting thread",
    "process_request": "a dispatcher (dispatch(job) arranges for one job.run())",
    "process_request_thread": "a wrapper around the handler: the dispatcher's threads call nothing else",
    "finish_request": "the handler call: a function of one request that makes the handler as you need it",
    "shutdown_request": "nothing: the connection closes itself after the handler; send_eof() sends the end earlier",
    "close_request": "nothing: the connection closes itself after the handler",
    "handle_error": "an observer of JobFinished: event.outcome has status, error, peer and age",
    "collect_children": "nothing: Fork reaps each child by its own pidfd the moment it ends",
    "__enter__": "the with block of Server, which binds",
    "__exit__": "the with block of Server, which drains",
}

#: All that `socketserver` itself has on a server, methods and attributes.
DOCUMENTED = frozenset(GOES_TO) | {
    "RequestHandlerClass", "_BaseServer__is_shut_down", "_BaseServer__shutdown_request", "_threads", "_tricorn",
    "active_children", "address_family", "allow_reuse_address", "allow_reuse_port", "block_on_close", "daemon_threads",
    "max_children", "max_packet_size", "request_queue_size", "server_address", "socket", "socket_type", "timeout",
}  # fmt: skip


@frozen
class Override:
    """One method that one class overrides; ``hidden_by`` is the class before it that makes it void, or ``""``."""

    method: str
    cls: str
    goes_to: str
    hidden_by: str = ""


def overrides_of(lineage: Lineage) -> tuple[Override, ...]:
    """Every documented method that a class other than `socketserver`'s defines, in the documented order."""
    return tuple(
        Override(method, cls.__name__, goes_to, hider.__name__ if hider else "")
        for method, goes_to in GOES_TO.items()
        for cls in lineage.own
        if method in vars(cls) and (method != "__init__" or any(each.__name__ == "BaseServer" for each in cls.__mro__))
        for hider in (lineage.in_vain(cls, method),)
    )
