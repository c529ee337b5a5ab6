"""Who is measured: Tricorn's servers, the standard library's, those of other projects, and one in C."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from harness import C_SERVER, HERE

__all__ = ["CONTENDERS", "Contender", "missing"]

#: What draws each family's bars: see `charts`.
TRICORN, STDLIB, PEER, LIMIT = "tricorn", "standard library", "peer", "C"


@dataclass(frozen=True)
class Contender:
    """One server: a script with its options."""

    name: str
    family: str
    #: A script of this folder, or ``""`` for the server in C.
    script: str
    options: tuple[str, ...] = ()
    #: What it replaces: the ratios that matter are those to this one.
    counterpart: str = ""
    #: The packages that it needs.
    needs: tuple[str, ...] = ()
    #: True if it sends back whole lines, so that the load must consist of lines.
    lines: bool = False

    def command(self, proto: str, dispatcher: str = "", options: Iterable[str] = ()) -> list[str]:
        """Its command line; ``dispatcher`` takes the place of the one in its options."""
        own = ("--dispatcher", dispatcher, *self.options[2:]) if dispatcher else self.options
        return [str(HERE / self.script) if self.script else str(C_SERVER), *own, "--proto", proto, *options]


def missing(contender: Contender) -> list[str]:
    """The packages that this environment does not have."""
    return [package for package in contender.needs if importlib.util.find_spec(package) is None]


def _tricorn(name: str, counterpart: str, dispatcher: str = "", *options: str) -> Contender:
    command = ("--dispatcher", dispatcher or name, *options)
    needs = ("tricorn", "uvloop") if "uvloop" in command[1] else ("tricorn",)
    return Contender(name, TRICORN, "server.py", command, counterpart, needs, "lines" in options)


def _stdlib(kind: str, *options: str) -> Contender:
    name = f"ss-{kind}" + ("-5" if options else "")
    return Contender(name, STDLIB, "stdlib_server.py", ("--kind", kind, *options))


def _peers(script: str, package: str, kinds: Iterable[str] = (), lines: bool = True) -> Iterable[Contender]:
    for kind in kinds or (package,):
        needs = ("uvloop",) if "uvloop" in kind else () if package == "asyncio" else (package,)
        command = ("--kind", kind) if kinds else ()
        yield Contender(kind, PEER, f"peers/{script}", command, needs=needs)
        if lines:
            lined = (*command, "--framing", "lines")
            yield Contender(f"{kind}-lines", PEER, f"peers/{script}", lined, needs=needs, lines=True)


def _http_peer(kind: str, family: str, package: str = "") -> Contender:
    return Contender(kind, family, "peers/http_servers.py", ("--kind", kind), needs=(package,) if package else ())


def _http(name: str, dispatcher: str, application: str, counterpart: str) -> Contender:
    command = ("--dispatcher", dispatcher, "--application", application)
    return Contender(name, TRICORN, "http_server.py", command, counterpart, ("tricorn",))


def _limit(design: str) -> Contender:
    return Contender(f"c-{design}", LIMIT, "", ("--design", design))


_BATCH = ("--transport-options", '{"batch": 32}')
_POOLS_BEHIND_A_LOOP = f"selector?then={quote('thread-pool?workers=16', safe='')}"

CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        _stdlib("sync"),
        _stdlib("thread"),
        _stdlib("thread", "--backlog", "5"),
        _stdlib("fork"),
        _tricorn("sync", "ss-sync"),
        _tricorn("sync-batch", "ss-sync", "sync", *_BATCH),
        _tricorn("thread", "ss-thread"),
        _tricorn("thread-pool", "ss-thread"),
        _tricorn("fork", "ss-fork"),
        _tricorn("process-pool", "ss-fork", "process-pool?workers=2"),
        _tricorn("selector", "uvloop-lines", "selector", "--handler", "lines"),
        _tricorn("selector-pool", "uvloop-lines", _POOLS_BEHIND_A_LOOP, "--handler", "lines"),
        _tricorn("selector-chunks", "uvloop", "selector", "--handler", "chunks"),
        _tricorn("pool-parked", "ss-thread", "thread-pool?workers=16&park_idle=true", "--handler", "lines"),
        _tricorn("on-asyncio", "asyncio-lines", "asyncio", "--handler", "lines"),
        _tricorn("on-uvloop", "uvloop-lines", "asyncio?loop=uvloop", "--handler", "lines"),
        *_peers("echo_asyncio.py", "asyncio", ("asyncio", "asyncio-streams", "uvloop", "uvloop-streams")),
        *_peers("echo_gevent.py", "gevent"),
        *_peers("echo_twisted.py", "twisted"),
        *_peers("echo_trio.py", "trio", lines=False),
        *_peers("echo_anyio.py", "anyio", lines=False),
        _limit("blocking"),
        _limit("epoll"),
        _limit("batch"),
        _limit("once"),
        _limit("http"),
        _http("http-thread", "thread", "handler", "http.server"),
        _http("http-thread-pool", "thread-pool", "handler", "http.server"),
        _http("wsgi-thread", "thread", "wsgi", "wsgiref"),
        _http("wsgi-thread-pool", "thread-pool", "wsgi", "wsgiref"),
        _http("wsgi-facade", "thread-pool", "wsgi-facade", "wsgiref"),
        _http_peer("http.server", STDLIB),
        _http_peer("wsgiref", STDLIB),
        _http_peer("waitress", PEER, "waitress"),
        _http_peer("cheroot", PEER, "cheroot"),
        _http_peer("gunicorn-gthread", PEER, "gunicorn"),
        _http_peer("gunicorn-sync", PEER, "gunicorn"),
    )
}
