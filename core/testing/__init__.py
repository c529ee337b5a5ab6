"""The conformance kit: what a transport or a dispatcher must do, as functions that anybody can call.

::

    from tricorn.testing import check_dispatcher, check_transport, no_leaks

    check_dispatcher(lambda: MyDispatcher(limit=4))     # AssertionError, with the law that is broken
    check_transport(lambda: MyTransport("127.0.0.1"))
    with no_leaks():                                    # AssertionError: threads, descriptors, children left behind
        ...

They need no pytest.  Where pytest is, the plugin `tricorn.testing.pytest_plugin` is loaded by itself and offers the
fixture ``tricorn_server``; a test that does not ask for it notices nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tricorn.testing.dispatchers import check_dispatcher
    from tricorn.testing.leaks import no_leaks
    from tricorn.testing.transports import check_transport

__all__ = ["check_dispatcher", "check_transport", "no_leaks"]

_HOME = {"check_dispatcher": "dispatchers", "check_transport": "transports", "no_leaks": "leaks"}


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: the plugin is loaded in every run of pytest."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
