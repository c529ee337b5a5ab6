"""The parts of the legacy facade; `tricorn.socketserver` puts them together.

The classes here keep the names, arguments, order of calls and attributes that `socketserver` documents.  Whatever is
Tricorn's own stands in one attribute, ``_tricorn`` (`tricorn.legacy.state`), since programs claim names of their
own on servers and handlers.
"""

from __future__ import annotations

__all__: list[str] = []
