"""Composed dispatchers for old classes: a mix-in for each that is installed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import attrs

from tricorn.contracts import Dispatcher, Kind, Shape
from tricorn.errors import ConfigurationError
from tricorn.legacy.state import state_of

if TYPE_CHECKING:
    from tricorn.plugins import Catalogue

__all__ = ["kinds_of_column", "make_mix_in"]


def make_mix_in(column: str) -> type | None:
    """The mix-in of the dispatcher whose name, in capitals, is ``column`` (``ThreadPool`` for ``thread-pool``).

    Its options are class attributes.  ``None`` if no such dispatcher is installed.  Raises `ConfigurationError` for
    one that is there and cannot be used.
    """
    dispatcher = _dispatcher_of(column)
    if dispatcher is None:
        return None
    from tricorn.legacy.carrying import Carrier  # the engine and all; programs that ask for no further class need none

    fed = _takes_single_jobs(dispatcher)
    options = _options_of(dispatcher)
    shown = ", ".join(options) or "none"
    namespace = {name: value for name, value in options.items() if value is not attrs.NOTHING}
    namespace["__doc__"] = f"Serves requests by a `{dispatcher.__name__}`, with its options as attributes: {shown}."

    def make(server: Any) -> Dispatcher:
        given = {name: getattr(server, name, attrs.NOTHING) for name in options}
        made: Dispatcher = dispatcher(**{name: value for name, value in given.items() if value is not options[name]})
        return made

    def process_request(self: Any, request: Any, client_address: Any) -> None:
        """Hand the request to the dispatcher."""
        state = state_of(self)
        if state.dispatching is None or (state.dispatching.ended and not state.closed):
            state.dispatching = Carrier(self, make(self), fed=fed)
        state.dispatching.take(request, client_address)

    def server_close(self: Any) -> None:
        """Close the server, then wait for its requests, but not for ever."""
        super(mix_in, self).server_close()
        carrier = state_of(self).dispatching
        if carrier is not None and not carrier.ended:
            carrier.end()

    for function in (process_request, server_close):
        function.__qualname__ = f"{column}MixIn.{function.__name__}"
        namespace[function.__name__] = function
    mix_in: Any = type(f"{column}MixIn", (), namespace)
    made: type = mix_in
    return made


def kinds_of_column(column: str) -> frozenset[Kind] | None:
    """What the dispatcher of ``column`` can serve; all, where its options decide.  ``None`` if there is none."""
    dispatcher = _dispatcher_of(column)
    if dispatcher is None:
        return None
    kinds: Any = dispatcher.kinds
    return kinds if isinstance(kinds, frozenset) else frozenset(Kind)


def _catalogue() -> Catalogue:
    from tricorn.plugins import catalogue  # pluggy is imported for whoever asks for a further class, and nobody else

    return catalogue()


def _dispatcher_of(column: str) -> type[Dispatcher] | None:
    from tricorn.parts import Corner

    names = {
        "".join(word.capitalize() for word in name.split("-")): name for name in _catalogue().names(Corner.DISPATCHER)
    }
    if column not in names:
        return None
    dispatcher: type[Dispatcher] = _catalogue().find(Corner.DISPATCHER, names[column]).load()
    shapes: Any = dispatcher.shapes
    if isinstance(shapes, frozenset) and not shapes & {Shape.CLASS, Shape.FUNCTION}:
        said = ", ".join(sorted(shape.value for shape in shapes))
        raise ConfigurationError(f"dispatcher '{names[column]}' calls no request-handler class, only: {said}")
    if dispatcher.forks is True and not _takes_single_jobs(dispatcher):
        raise ConfigurationError(f"dispatcher '{names[column]}' forks, and takes no single requests")
    missing = _required(dispatcher)
    if missing:
        raise ConfigurationError(
            f"dispatcher '{names[column]}' needs {', '.join(missing)}, which a class attribute cannot say; "
            f"compose it: Server(transport, {dispatcher.__name__}(...), handler)"
        )
    return dispatcher


def _options_of(dispatcher: type) -> dict[str, Any]:
    """Each option's default; `attrs.NOTHING` where there is none, or it depends on the object."""
    from tricorn.names import part_options

    return {option.name: option.default for option in part_options(dispatcher)}


def _required(dispatcher: type) -> list[str]:
    """What its constructor cannot do without."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(dispatcher).parameters.values()
    return [each.name for each in parameters if each.kind in kinds and each.default is inspect.Parameter.empty]


def _takes_single_jobs(dispatcher: type[Dispatcher]) -> bool:
    """Whether its ``dispatch`` does without its ``serve``; that of an event loop does not, for the loop must run."""
    loops = dispatcher.needs_descriptors and dispatcher.serve is not Dispatcher.serve
    return dispatcher.dispatch is not Dispatcher.dispatch and not loops
