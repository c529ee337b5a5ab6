"""The transport and the dispatcher that a server class implies."""

from __future__ import annotations

import ast
import inspect
import socket
import sys
from typing import Any

import attrs
from attrs import frozen

from tricorn.contracts import Dispatcher
from tricorn.explain.lineage import Lineage
from tricorn.explain.naming import Names
from tricorn.explain.reading import names_used
from tricorn.listening import MAX_BACKLOG

__all__ = ["Corner", "dispatcher_of", "drain_of", "transport_of", "wraps_tls"]

_MOST_BYTES = 65535
#: What an override of process_request may use to run requests elsewhere, and the dispatcher that does it.
_ELSEWHERE = {
    "ThreadPool": {"ThreadPoolExecutor", "ThreadPool", "submit", "apply_async", "Queue", "SimpleQueue"},
    "Fork": {"fork", "Process"},
    "ProcessPool": {"ProcessPoolExecutor"},
    "Thread": {"Thread", "start_new_thread"},
}
_TLS = ("wrap_socket", "SSLSocket")
_BINDING = ("__init__", "server_bind", "server_activate", "get_request")


@frozen
class Corner:
    """One argument of the composition: its text, and why it is so."""

    text: str
    why: str = ""


def _call(name: str, arguments: list[str], options: dict[str, Any]) -> str:
    return f"{name}({', '.join([*arguments, *(f'{option}={value!r}' for option, value in options.items())])})"


def transport_of(lineage: Lineage, names: Names) -> Corner | None:
    """The transport with the options that the class sets; ``None`` where no transport of ours is like it."""
    family, kind = lineage.value("address_family"), lineage.value("socket_type")
    unix = getattr(socket, "AF_UNIX", None)
    usual = socket.SOCK_DGRAM if lineage.datagram else socket.SOCK_STREAM
    if not (lineage.stream or lineage.datagram) or kind != usual:
        return None
    if family not in (socket.AF_INET, socket.AF_INET6, unix):
        return None
    options = _packet_options(lineage) if lineage.datagram else _stream_options(lineage)
    if family == unix:
        name = names.tricorn("UnixDatagram" if lineage.datagram else "UnixStream", "tricorn.transports")
        return Corner(
            _call(name, ["'server.sock'"], options).replace("'", '"'),
            "the path that the class was given; its mode is 0o600 unless mode= says else",
        )
    if lineage.value("allow_reuse_port"):
        options["reuse_port"] = True
    name = names.tricorn("UDP" if lineage.datagram else "TCP", "tricorn.transports")
    host = '"::1"' if family == socket.AF_INET6 else '"127.0.0.1"'
    return Corner(_call(name, [host, "0"], options), "the address that the class was given; port 0 is a free one")


def _stream_options(lineage: Lineage) -> dict[str, Any]:
    backlog = lineage.value("request_queue_size")
    if not lineage.sets("request_queue_size") or not isinstance(backlog, int):
        return {}
    return {"backlog": min(max(int(backlog), 1), MAX_BACKLOG)}


def _packet_options(lineage: Lineage) -> dict[str, Any]:
    size = lineage.value("max_packet_size")
    if not lineage.sets("max_packet_size") or not isinstance(size, int) or size < 1:
        return {}
    return {"max_packet_size": min(size, _MOST_BYTES), "deliver_truncated": True}


def wraps_tls(lineage: Lineage) -> str | None:
    """What wraps the listening socket, or each connection, with TLS: a method of the class, else its module."""
    methods = dict.fromkeys([*_BINDING, *(name for cls in lineage.own for name in vars(cls))])
    for method in methods:
        for cls in lineage.users(method, *_TLS):
            return f"{cls.__name__}.{method}"
    modules = {cls.__module__ for cls in lineage.own if cls.__module__.partition(".")[0] not in sys.stdlib_module_names}
    for name in sorted(modules):
        if _mentions_tls(name):
            return name
    return None


def _mentions_tls(module: str) -> bool:
    """Whether a module does it from outside: ``server.socket = context.wrap_socket(server.socket)``."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError, KeyError):
        return False
    outside = [
        node for statement in tree.body if not isinstance(statement, ast.ClassDef) for node in ast.walk(statement)
    ]
    return any(isinstance(node, ast.Attribute) and node.attr in _TLS for node in outside)


def dispatcher_of(lineage: Lineage, names: Names) -> Corner:
    """The dispatcher that the mix-in, or an override of process_request, amounts to."""
    corner = _dispatcher_of_mix_in(lineage, names)
    owner = lineage.owner("process_request")
    if owner is None or owner in lineage.mix_ins or owner.__name__ == "BaseServer":
        return corner
    where = f"{owner.__name__}.process_request"
    used = names_used(vars(owner)["process_request"])
    if lineage.mix_in is None:
        for name, signs in _ELSEWHERE.items():
            if used & signs:
                return Corner(f"{names.tricorn(name, 'tricorn.strategies')}()", f"in the place of {where}")
    return Corner(corner.text, f"{where} decides it today: see below")


def _dispatcher_of_mix_in(lineage: Lineage, names: Names) -> Corner:
    def named(name: str) -> str:
        return names.tricorn(name, "tricorn.strategies")

    mix_in = lineage.mix_in
    if mix_in is None:
        idle = lineage.idle_mix_in
        why = (
            f"{idle.__name__} has no effect where it stands; before the server class it would be {_after(idle)}"
            if idle
            else ""
        )
        return Corner(f"{named('Sync')}()", why)
    if mix_in.__name__ == "ThreadingMixIn":
        return Corner(f"{named('Thread')}(limit=256)", "the most threads at once; today there is no limit")
    if mix_in.__name__ == "ForkingMixIn":
        return Corner(_call(named("Fork"), [], {"max_children": max(1, int(lineage.value("max_children")))}))
    return _invented(lineage, mix_in, names) or Corner(
        f"{named('Sync')}()", f"{mix_in.__name__} is of no dispatcher known here"
    )


def _after(mix_in: type) -> str:
    return {"ThreadingMixIn": "Thread()", "ForkingMixIn": "Fork()"}.get(
        mix_in.__name__, mix_in.__name__.removesuffix("MixIn")
    )


def _invented(lineage: Lineage, mix_in: type, names: Names) -> Corner | None:
    """The dispatcher behind a mix-in that the facade has made of an installed one."""
    from tricorn.parts import Corner as PartCorner
    from tricorn.plugins import catalogue

    wanted = mix_in.__name__.removesuffix("MixIn")
    for name in catalogue().names(PartCorner.DISPATCHER):
        if "".join(map(str.capitalize, name.split("-"))) == wanted:
            made: type[Dispatcher] = catalogue().find(PartCorner.DISPATCHER, name).load()
            home, _, module = made.__module__.rpartition(".")
            expression = names.tricorn(
                made.__name__, home if home == "tricorn.strategies" else f"{home}.{module}".strip(".")
            )
            return Corner(_call(expression, [], _changed_options(lineage, made)))
    return None


def _changed_options(lineage: Lineage, dispatcher: type) -> dict[str, Any]:
    fields = [each for each in attrs.fields(dispatcher) if each.init]
    given = {each.name: lineage.value(each.name) for each in fields}
    plain = (bool, int, float, str, type(None))
    return {
        each.name: given[each.name]
        for each in fields
        if given[each.name] != each.default and isinstance(given[each.name], plain)
    }


def drain_of(lineage: Lineage) -> Corner | None:
    """What ``daemon_threads`` and ``block_on_close`` say of the end."""
    mix_in = lineage.mix_in
    if mix_in is None or mix_in.__name__ not in ("ThreadingMixIn", "ForkingMixIn"):
        return None
    if mix_in.__name__ == "ThreadingMixIn" and lineage.value("daemon_threads"):
        return Corner(
            "drain_timeout=0", "daemon_threads is true: the end waits for no request; 8 seconds are the default"
        )
    if lineage.value("block_on_close"):
        return Corner("drain_timeout=8", "block_on_close is true: the end waits, though not without limit as today")
    if mix_in.__name__ == "ThreadingMixIn":
        why = "block_on_close is false, though today the program still waits for its threads as it ends"
    else:
        why = "block_on_close is false: children outlive the server today; here they get 8 seconds"
    return Corner("drain_timeout=8", why)
