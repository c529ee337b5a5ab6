"""Which handler a server class is used with."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Any

from attrs import frozen

from tricorn.explain.families import usual_handler
from tricorn.explain.lineage import Lineage, is_request_handler
from tricorn.explain.naming import Names
from tricorn.explain.reading import function_of, reads_of_server

__all__ = ["Handler", "handler_of", "placeholder"]


@frozen
class Handler:
    """A handler as the printed program names it; ``thing`` is ``None`` for a placeholder that is printed too."""

    text: str
    why: str
    thing: Any = None

    @property
    def request_class(self) -> type | None:
        """The request-handler class, out of its partial; ``None`` for anything else."""
        inner = self.thing
        while isinstance(inner, partial):
            inner = inner.func
        return inner if isinstance(inner, type) else None

    @property
    def reads(self) -> frozenset[str]:
        """What it takes from ``self.server``."""
        return frozenset() if self.request_class is None else reads_of_server(self.request_class)


def handler_of(lineage: Lineage, names: Names, given: Any, reference: str) -> Handler:
    """The handler: the one given, else the constructor's default, the family's, the only one beside the class."""
    candidates = (
        (given, "as given"),
        (_default(lineage), "the constructor's default"),
        (lineage.value("RequestHandlerClass"), "the class's own"),
        (_beside(lineage), "the only one in the class's module; --handler names another"),
        (usual_handler(lineage), "the usual one; --handler names another"),
    )
    for candidate, why in candidates:
        text = None if candidate is None else names.of(candidate, reference if candidate is given else "")
        if text is not None:
            return Handler(text, why, candidate)
    names.reserve("Handler")
    return Handler("Handler", "in the place of yours; --handler names it")


def _default(lineage: Lineage) -> Any:
    """The default of the first constructor that has a handler for one."""
    for cls in lineage.own:
        init = function_of(vars(cls).get("__init__"))
        for each in inspect.signature(init).parameters.values() if init else ():
            if is_request_handler(each.default):
                return each.default
    return None


def _beside(lineage: Lineage) -> Any:
    module = sys.modules.get(lineage.server.__module__)
    if module is None or module.__name__.partition(".")[0] in sys.stdlib_module_names | {"tricorn"}:
        return None
    found = {
        thing
        for thing in vars(module).values()
        if is_request_handler(thing) and thing.__module__ == lineage.server.__module__
    }
    leaves = [each for each in found if not any(each is not other and issubclass(other, each) for other in found)]
    return leaves[0] if len(leaves) == 1 else None


def placeholder(lineage: Lineage, names: Names) -> list[str]:
    """A handler to be replaced: it answers with what it got."""
    if lineage.datagram:
        base, body = "DatagramRequestHandler", "self.wfile.write(self.rfile.read())"
    elif lineage.stream:
        base, body = "StreamRequestHandler", "self.wfile.write(self.rfile.readline())"
    else:
        base, body = "BaseRequestHandler", "print(self.request)"
    base = names.tricorn(base, "tricorn.handlers")
    return [
        f"class Handler({base}):",
        '    """In the place of yours."""',
        "",
        "    def handle(self):",
        f"        {body}",
    ]
