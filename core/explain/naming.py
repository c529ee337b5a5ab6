"""How a printed program names the objects that it uses: their imports, and names that do not clash."""

from __future__ import annotations

import functools
import sys
from typing import Any

__all__ = ["Names"]

#: What the printed program calls its own things.
_TAKEN = frozenset(
    {
        *("Fork", "ProcessPool", "Sync", "Thread", "ThreadPool", "TCP", "UDP", "UnixDatagram", "UnixStream"),
        *("JobFinished", "Server", "ServerView", "Transport"),
        *("Source", "State", "report", "serve", "server", "state", "verify"),
    }
)


class Names:
    """The imports of one program, collected as its text is made."""

    def __init__(self) -> None:
        self._homes: dict[str, str] = {}
        self._from: dict[str, set[str]] = {}
        self._modules: dict[str, str] = {}

    def tricorn(self, name: str, home: str = "tricorn") -> str:
        """A name of Tricorn's own; these come first, so that they are never in anybody's way."""
        return self._imported(name, home)

    def reserve(self, name: str) -> None:
        """Keep ``name`` for something that the program defines."""
        self._homes.setdefault(name, "")

    def of(self, thing: Any, reference: str = "") -> str | None:
        """An expression for a class or function; ``reference`` is the ``module:path`` by which somebody knows it.

        ``None`` where no module has it.
        """
        path = getattr(thing, "__qualname__", None)
        written = f"{getattr(thing, '__module__', None)}:{path}"
        for candidate in (written, reference, f"tricorn.socketserver:{path}"):
            module, _, path = candidate.partition(":")
            if path and _leads_to(module, path, thing):
                return self.at(module, path)
        return None

    def at(self, module: str, path: str) -> str:
        """An expression for what stands at ``path`` in ``module``."""
        top, dot, rest = path.partition(".")
        if top in _TAKEN or self._homes.get(top, module) != module:
            alias = module.replace(".", "_") + "_module"
            self._modules[module] = alias
            return f"{alias}.{path}"
        return self._imported(top, module) + dot + rest

    def _imported(self, name: str, module: str) -> str:
        self._homes[name] = module
        self._from.setdefault(module, set()).add(name)
        return name

    def lines(self) -> list[str]:
        """The import statements: the standard library's, everybody's, Tricorn's."""
        groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
        for module, alias in self._modules.items():
            groups[_group(module)].append(f"import {module} as {alias}")
        for module, names in sorted(self._from.items()):
            groups[_group(module)].append(f"from {module} import {', '.join(sorted(names))}")
        return "\n\n".join("\n".join(lines) for lines in groups.values() if lines).splitlines()


def _group(module: str) -> int:
    top = module.partition(".")[0]
    return 2 if top == "tricorn" else 0 if top in sys.stdlib_module_names else 1


def _leads_to(module: str, path: str, thing: Any) -> bool:
    try:
        return functools.reduce(getattr, path.split("."), sys.modules[module]) is thing
    except (AttributeError, KeyError):
        return False
