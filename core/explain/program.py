"""The equivalent composition, as a program that runs."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from tricorn.explain.corners import Corner, dispatcher_of, drain_of, transport_of, wraps_tls
from tricorn.explain.families import presets_of, registrations_of
from tricorn.explain.handlers import Handler, handler_of, placeholder
from tricorn.explain.lineage import Lineage
from tricorn.explain.naming import Names
from tricorn.explain.state import State, own_members, state_of

__all__ = ["Program", "compose"]

_OWN_DATA = ("finish_request", "verify_request")


@frozen
class Program:
    """The composition: its corners as expressions, and the whole text."""

    transport: str
    dispatcher: str
    handler: str
    text: str
    notes: tuple[str, ...] = ()


def compose(lineage: Lineage, shown: str, given: Any = None, reference: str = "") -> Program:
    """The composition that is equivalent to the class ``shown``, with the handler ``given`` if there is one."""
    names = Names()
    names.tricorn("Server")
    transport = transport_of(lineage, names)
    dispatcher = dispatcher_of(lineage, names)
    handler = handler_of(lineage, names, given, reference)
    state = _state(lineage, handler, names)
    built = _Writing(lineage, names, shown, handler, state)
    text = built.text(transport, dispatcher)
    corner = transport.text if transport else "Source()"
    return Program(corner, dispatcher.text, handler.text, text, _notes(lineage, handler, state))


def _state(lineage: Lineage, handler: Handler, names: Names) -> State:
    wanted = set(handler.reads) if handler.thing is not None else set(own_members(lineage))
    wanted |= {name for name in _OWN_DATA if lineage.overrides(name)}
    if not wanted:
        return State()
    state = state_of(lineage, wanted, names, presets_of(lineage, names))
    return state.and_lines(registrations_of(lineage, names)) if "_marshaled_dispatch" in wanted else state


def _notes(lineage: Lineage, handler: Handler, state: State) -> tuple[str, ...]:
    notes = []
    if "directory" in _keywords(handler):
        notes.append(
            f"Keyword arguments go to the handler by functools.partial: partial({handler.text}, directory=...)."
        )
    notes += [
        f"{handler.text} uses self.server.{name}; a ServerView has none: {_instead(name)}." for name in state.lost
    ]
    if lineage.value("timeout") is not None and lineage.sets("timeout"):
        notes.append(f"timeout = {lineage.value('timeout')!r} goes to Server.handle_request(timeout=...).")
    found = wraps_tls(lineage)
    if found:
        notes.append(
            f"{found} speaks TLS; the program here does not: wrap the connection's socket where "
            "the handler begins, on the worker, or put a TLS transport around this one."
        )
    return tuple(notes)


def _keywords(handler: Handler) -> tuple[str, ...]:
    init = getattr(handler.request_class, "__init__", None)
    code = getattr(init, "__code__", None)
    return () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _instead(name: str) -> str:
    if name in ("_BaseServer__shutdown_request", "server_close", "_BaseServer__is_shut_down"):
        return "call self.server.shutdown(), which never blocks"
    if name in ("handle_error", "shutdown_request", "close_request"):
        return "raise, or return, and the server does it"
    return "self.server.tricorn is the Server"


@frozen
class _Writing:
    """The text of one program."""

    lineage: Lineage
    names: Names
    shown: str
    handler: Handler
    state: State

    def text(self, transport: Corner | None, dispatcher: Corner) -> str:
        """All of it, imports first."""
        blocks = [
            [] if transport else self._source(),
            [] if self.handler.thing is not None else placeholder(self.lineage, self.names),
            self._state_class(),
            self._serve(),
            self._verify(),
            self._observer(),
            self._main(transport or Corner("Source()", "a transport in the place of get_request"), dispatcher),
        ]
        body = "\n\n\n".join("\n".join(block) for block in blocks if block)
        imports = "\n".join(self.names.lines())
        return f'"""What {self.shown} does, composed."""\n\n{imports}\n\n\n{body}\n'

    @property
    def _word(self) -> str:
        return "datagram" if self.lineage.datagram else "connection" if self.lineage.stream else "item"

    @property
    def _request(self) -> str:
        return {
            "datagram": "(datagram.data, datagram.socket)",
            "connection": "connection.socket",
            "item": "item.value",
        }[self._word]

    def _state_class(self) -> list[str]:
        state = self.state
        if not (state.needed or state.carried):
            return []
        bases = ", ".join([self.names.tricorn("ServerView", "tricorn.handling"), *state.bases])
        lines = [
            f"class State({bases}):",
            '    """What handlers find as self.server, beside server_address, server_port, shutdown() and the like."""',
        ]
        if state.members:
            lines += ["", *(f"    {line}" for line in state.members)]
        if state.lines:
            lines += [
                "",
                "    def __init__(self, server, handler):",
                "        ServerView.__init__(self, server, handler)",
            ]
            lines += [f"        {line}" for line in state.lines]
        return lines

    def _serve(self) -> list[str]:
        if not (self.state.needed or self.state.carried):
            return []
        word, request = self._word, self._request
        function = self.handler.thing is not None and self.handler.request_class is None
        call = f"{self.handler.text}({word})" if function else f"{self.handler.text}({request}, {word}.peer, state)"
        doc = "The handler as ever, with the state as its self.server."
        if self.lineage.overrides("finish_request") and "finish_request" in self.state.carried:
            call = f"state.finish_request({request}, {word}.peer)"
            doc = f"{self._owner('finish_request')} as ever; it makes the handler."
        return [f"def serve({word}):", f'    """{doc}"""', f"    {call}"]

    def _owner(self, method: str) -> str:
        owner = self.lineage.owner(method)
        return f"{owner.__name__}.{method}" if owner else method

    def _verify(self) -> list[str]:
        if not self.lineage.overrides("verify_request"):
            return []
        carried = "verify_request" in self.state.carried
        answer = f"state.verify_request({self._request}, {self._word}.peer)" if carried else "True"
        doc = f"{self._owner('verify_request')}{' as ever' if carried else ': its body belongs here'}."
        return [f"def verify({self._word}):", f'    """{doc}"""', f"    return {answer}"]

    def _observer(self) -> list[str]:
        if not self.lineage.overrides("handle_error"):
            return []
        self.names.tricorn("JobFinished", "tricorn.events")
        return [
            "def report(event):",
            f'    """In the place of {self._owner("handle_error")}."""',
            "    if isinstance(event, JobFinished) and event.outcome.error is not None:",
            "        print(event.outcome.peer, event.outcome.status.value, repr(event.outcome.error), flush=True)",
        ]

    def _source(self) -> list[str]:
        transport = self.names.tricorn("Transport")
        return [
            f"class Source({transport}):",
            f'    """In the place of {self._owner("get_request")}."""',
            "",
            "    def listen(self):",
            '        raise NotImplementedError("a listener whose accept() returns a Connection, Datagram or Item")',
        ]

    def _main(self, transport: Corner, dispatcher: Corner) -> list[str]:
        stateful = self.state.needed or bool(self.state.carried)
        arguments = [transport, dispatcher, Corner("serve" if stateful else self.handler.text, self.handler.why)]
        if self.lineage.overrides("verify_request"):
            arguments.append(Corner("verify=verify"))
        if self.lineage.overrides("handle_error"):
            arguments.append(Corner("observers=[report]", "log=False leaves out the log records"))
        arguments += filter(None, [drain_of(self.lineage)])
        shown = [f"    {each.text},{f'  # {each.why}' if each.why else ''}" for each in arguments]
        made = [f"    state = State(server, {self.handler.text})"] if stateful else []
        return [
            "with Server(", *shown, ") as server:", *made,
            "    print(server.address, flush=True)",
            "    server.serve_forever(signals=True)",
        ]  # fmt: skip
