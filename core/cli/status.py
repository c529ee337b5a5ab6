"""The exit statuses; `tricorn.cli.words` tells users."""

from __future__ import annotations

__all__ = ["BUG", "CLEAN", "INTERRUPTED", "UNCLEAN", "UNUSABLE"]

#: Everything went well.
CLEAN = 0
#: Requests were cut off or lost; a cell of the matrix failed.
UNCLEAN = 1
#: What was asked for cannot be done: a usage or configuration error.
UNUSABLE = 2
#: Something failed that nobody foresaw: EX_SOFTWARE of sysexits.h.
BUG = 70
#: Ctrl-C before there was anything to drain: 128 + SIGINT, as shells have it.
INTERRUPTED = 130
