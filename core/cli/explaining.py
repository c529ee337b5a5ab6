"""What ``tricorn explain`` does: from the two texts to what is printed."""

from __future__ import annotations

import json
import os
import sys

from tricorn.cli.output import say
from tricorn.errors import ConfigurationError
from tricorn.explain import explain
from tricorn.importing import import_object

__all__ = ["show_explanation"]


def show_explanation(server: str, handler: str | None, *, as_json: bool) -> None:
    """Import the class, and the handler if there is one, and print what there is to say; the current directory counts.

    Raises `ConfigurationError` for what cannot be imported, is no server class, or no handler.
    """
    if not sys.flags.safe_path and sys.path[:1] not in ([""], [os.getcwd()]):
        sys.path.insert(0, os.getcwd())
    found = import_object(server)
    given = import_object(handler) if handler else None
    if handler and not callable(given):
        raise ConfigurationError(f"'{handler}' is no handler: a {type(given).__name__} cannot be called")
    explanation = explain(found, given, name=server, handler_name=handler or "")
    say(json.dumps(explanation.record(), indent=2) if as_json else str(explanation))
