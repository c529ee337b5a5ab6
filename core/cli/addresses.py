"""Addresses as text that could be given to ``tricorn serve`` again."""

from __future__ import annotations

import os
from urllib.parse import quote

__all__ = ["written_address"]

#: Characters of a path that need no percent code; `tricorn.notation` has the rules.
_PLAIN = "/:@!$&'()*+,;=~"


def written_address(scheme: str, address: object) -> str:
    """The address of a listener, without spaces: ``tcp://[::1]:9999``, ``unix:/run/app.sock``."""
    if isinstance(address, tuple) and len(address) >= 2:
        host = str(address[0])
        host = f"[{host.replace('%', '%25')}]" if ":" in host else quote(host)
        return f"{scheme}://{host}:{address[1]}"
    text = os.fsdecode(address) if isinstance(address, bytes) else str(address)
    if "+" in scheme and text.startswith(f"{scheme}:"):
        return text  # a table's listener knows how it is written
    return f"{scheme}:{quote(os.fsencode(text.removeprefix(f'{scheme}:')), safe=_PLAIN)}"
