"""Putting the facade where `import socketserver` finds it."""

from __future__ import annotations

import sys
import warnings
from types import ModuleType

from tricorn.errors import StateError

__all__ = ["outdated_version", "put_in_place"]


def outdated_version() -> str:
    """The facade's ``__version__``, which the original still has until 3.20, but only with a warning."""
    warnings.warn("'__version__' is deprecated and slated for removal in Python 3.20", DeprecationWarning, stacklevel=3)
    return "0.4"


def put_in_place(facade: ModuleType) -> None:
    """Make ``facade`` what ``import socketserver`` gives.

    Raises `StateError` if the original is there already, with the modules that hold it or something of it.
    """
    present = sys.modules.get("socketserver")
    if present is facade:
        return
    if present is not None:
        holders = ", ".join(_holders(present)) or "nobody any more, but the original is imported"
        raise StateError(
            f"install() came too late: the original socketserver is in use by {holders}; "
            "call it before these are imported"
        )
    sys.modules["socketserver"] = facade


def _holders(original: ModuleType) -> list[str]:
    classes = {
        id(each) for each in vars(original).values() if isinstance(each, type) and each.__module__ == "socketserver"
    }
    found = []
    for name, module in list(sys.modules.items()):
        if module is original or not isinstance(module, ModuleType):
            continue
        values = list(vars(module).values())
        if any(value is original or id(value) in classes or _inherits(value, classes) for value in values):
            found.append(name)
    return sorted(found)


def _inherits(value: object, classes: set[int]) -> bool:
    return isinstance(value, type) and any(id(base) in classes for base in value.__mro__)
