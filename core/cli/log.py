"""Where log records go while ``tricorn serve`` runs: to standard error, with the time."""

from __future__ import annotations

import logging
from datetime import datetime

__all__ = ["configure_log"]


class _Stamped(logging.Formatter):
    """ISO 8601 with milliseconds and the offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def configure_log(level: str) -> None:
    """Send records of ``level`` and above, everybody's, to standard error, each with time, level, process and name."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Stamped("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
