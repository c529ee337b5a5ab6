"""The explanation of one server class, as a value, as text, and as a record for JSON."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from attrs import asdict, frozen

from tricorn.explain.edges import Edge, edges_of
from tricorn.explain.handlers import handler_of
from tricorn.explain.lineage import Lineage
from tricorn.explain.naming import Names
from tricorn.explain.overrides import Override, overrides_of
from tricorn.explain.program import Program, compose
from tricorn.observe.escape import escape

__all__ = ["Explanation", "explain"]

_WIDTH = 110


@frozen
class Explanation:
    """What there is to say of one class.  ``str()`` of it is a Python program that runs; the rest are its comments."""

    name: str
    bases: tuple[str, ...]
    on_facade: bool
    program: Program
    overrides: tuple[Override, ...]
    edges: tuple[Edge, ...]

    def record(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        program = asdict(self.program)
        return {
            "class": self.name,
            "bases": list(self.bases),
            "stands_on": "tricorn.socketserver" if self.on_facade else "socketserver",
            **{key: program[key] for key in ("transport", "dispatcher", "handler", "notes")},
            "program": program["text"],
            "overrides": [asdict(each) for each in self.overrides],
            "edges": [asdict(each) for each in self.edges],
        }

    def __str__(self) -> str:
        home = "tricorn.socketserver" if self.on_facade else "the standard library's socketserver"
        sections = [
            ("Notes", list(self.program.notes)),
            ("Overridden methods, and where each goes", [_shown(each) for each in self.overrides] or ["none"]),
            (f"Sharp edges of {self.name} today", [_told(each) for each in self.edges]),
        ]
        lines = [f"# {self.name}, on {home}:", *_comment(" > ".join(self.bases)), "", self.program.text]
        for title, items in sections:
            if items:
                lines += [f"# -- {title}", "#"]
                lines += [line for item in items for line in _comment(item)]
                lines.append("")
        return "\n".join(lines).rstrip()


def explain(server: object, handler: object = None, *, name: str = "", handler_name: str = "") -> Explanation:
    """The explanation of the class ``server``, used with ``handler`` (a class or a function of one request).

    The names are the ``module:attribute`` by which somebody knows them, for what cannot be found by its own name.
    Raises `~tricorn.errors.ConfigurationError` for what is no server class of `socketserver`.
    """
    shown = name or f"{getattr(server, '__module__', '?')}:{getattr(server, '__qualname__', repr(server))}"
    lineage = Lineage.of(server, shown)
    return Explanation(
        shown,
        tuple(cls.__name__ for cls in lineage.mro),
        lineage.on_facade,
        compose(lineage, shown, handler, handler_name),
        overrides_of(lineage),
        edges_of(lineage, handler_of(lineage, Names(), handler, handler_name)),
    )


def _shown(override: Override) -> str:
    void = f" (never called: {override.hidden_by} comes first)" if override.hidden_by else ""
    return f"{override.cls}.{override.method}{void} -> {override.goes_to}"


def _told(edge: Edge) -> str:
    return f"{edge.name}: {edge.fact}{' Mended in tricorn.socketserver.' if edge.mended else ''}"


def _comment(text: str) -> list[str]:
    """One item, wrapped; what classes are called can neither end a comment nor steer a terminal."""
    return wrap(escape(text), _WIDTH, initial_indent="#   ", subsequent_indent="#     ", break_long_words=False)
