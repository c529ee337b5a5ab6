"""The command ``tricorn``; it needs the extra ``cli``, and says so where that is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line on ``sys.argv`` and end the process with its exit status."""
    if missing := [name for name in ("click", "rich") if find_spec(name) is None]:
        needed = " and ".join(missing)
        print(f"tricorn: error: the command line needs {needed}: pip install 'tricorn[cli]'", file=sys.stderr)
        sys.exit(2)
    from tricorn.cli.commands import run
    from tricorn.cli.leaving import LEAVE_GRACE_S, in_background, leave_now

    if status := run():  # whatever an imported handler has left running
        in_background(leave_now, status, LEAVE_GRACE_S)
    sys.exit(status)
