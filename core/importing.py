"""From ``package.module:attribute`` to the object."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from tricorn.errors import ConfigurationError
from tricorn.wording import closest

__all__ = ["explain", "import_object"]


def import_object(reference: str) -> Any:
    """Import the module and walk the dotted attribute.

    Raises `ConfigurationError` for a text of another form, a module that is missing or fails to import, and an
    attribute that is missing (with the closest there is); the original error is its cause.
    """
    module_name, colon, path = reference.partition(":")
    if not (colon and all(part.isidentifier() for part in (*module_name.split("."), *path.split(".")))):
        raise ConfigurationError(f"'{reference}' is not of the form package.module:attribute")
    found: Any = _module(module_name)
    for name in path.split("."):
        found = _attribute(found, name, reference)
    return found


def explain(error: BaseException) -> str:
    """An error in one line, with its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            wanted = "" if name == error.name else f" (wanted: '{name}')"
            raise ConfigurationError(f"there is no module '{error.name}'{wanted}") from error
        raise ConfigurationError(f"module '{name}' needs a module that is missing: {error}") from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"module '{name}' fails when it is imported: {explain(error)}") from error


def _attribute(owner: Any, name: str, reference: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        where = getattr(owner, "__name__", type(owner).__name__)
        hint = closest(name, [known for known in dir(owner) if not known.startswith("_")])
        raise ConfigurationError(f"'{where}' has no attribute '{name}'{hint}") from error
    except Exception as error:
        raise ConfigurationError(f"'{reference}' cannot be reached: {explain(error)}") from error
