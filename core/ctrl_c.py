"""Whose KeyboardInterrupt it is."""

from __future__ import annotations

import signal
import threading

__all__ = ["may_be_ctrl_c"]


def may_be_ctrl_c() -> bool:
    """False on a thread of ours, and where SIGINT raises nothing: then it was the handler that raised it."""
    on_main_thread = threading.current_thread() is threading.main_thread()
    return on_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
