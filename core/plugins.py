"""Finding what installed distributions offer, each guarded from the mistakes of the others.

Every entry point gets a pluggy manager of its own: a hook that raises ends a call for all the plugins of one manager,
and here it must cost the parts of its own plugin only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distribution, distributions
from inspect import isclass
from typing import Any, TypeVar

from attrs import define, evolve, field, frozen
from pluggy import PluginManager

from tricorn import hookspecs
from tricorn.contracts import Dispatcher, Kind, Transport
from tricorn.errors import ConfigurationError, PluginConflict, PluginLoad, UnknownPlugin
from tricorn.importing import explain, import_object
from tricorn.parts import Corner, DispatcherPart, HandlerPart, Part, TransportPart, WrapperPart
from tricorn.wording import closest, quoted

__all__ = ["GROUP", "Catalogue", "Failure", "Offer", "Origin", "catalogue", "reset"]

#: The entry-point group, and the name of the pluggy project.
GROUP = "tricorn"
_RECORDS: dict[str, type[Part]] = {
    "tricorn_transports": TransportPart,
    "tricorn_wrappers": WrapperPart,
    "tricorn_dispatchers": DispatcherPart,
    "tricorn_handlers": HandlerPart,
}


@frozen(order=True)
class Origin:
    """Who offers a part.  ``entry_point`` is ``""`` where a distribution could not even be read."""

    distribution: str
    version: str = "of unknown version"
    entry_point: str = ""

    def __str__(self) -> str:
        where = f" (entry point '{self.entry_point}')" if self.entry_point else ""
        return f"{self.distribution} {self.version}{where}"


@frozen
class Offer:
    """One registration, and who made it."""

    part: Part
    origin: Origin

    def __str__(self) -> str:
        return f"{self.part.corner.value} '{self.part.name}' of {self.origin}"

    def load(self) -> Any:
        """The class or handler itself.

        Raises `PluginLoad` if it cannot be imported or does not keep its contract; the original error is the cause.
        """
        target: Any = self.part.target
        if isinstance(target, str):
            try:
                target = import_object(target)
            except ConfigurationError as error:
                raise PluginLoad(f"{self} could not be loaded: {error}") from (error.__cause__ or error)
        if flaw := _FLAWS[self.part.corner](target):
            raise PluginLoad(f"{self} does not keep its contract: {target!r} {flaw}")
        return target


@frozen
class Failure:
    """Something of a plugin that could not be used; ``error`` names the plugin and keeps the cause."""

    origin: Origin
    error: PluginLoad


@frozen
class Catalogue:
    """All offers, and all failures to make one, ordered by distribution and entry point."""

    offers: tuple[Offer, ...]
    failures: tuple[Failure, ...]

    def names(self, corner: Corner) -> tuple[str, ...]:
        """The names known for a corner, sorted.  Imports no part."""
        return tuple(sorted({offer.part.name for offer in self.offers if offer.part.corner is corner}))

    def find(self, corner: Corner, name: str) -> Offer:
        """The one offer of that name.

        Raises `PluginConflict` if there are several; `UnknownPlugin` if there is none, or `PluginLoad` if the entry
        point of that name is broken.
        """
        offers = [offer for offer in self.offers if offer.part.corner is corner and offer.part.name == name]
        if not offers:
            raise self._missing(corner, name)
        if len(offers) > 1:
            claims = " and ".join(str(offer.origin) for offer in offers)
            raise PluginConflict(f"{corner.value} '{name}' is offered by {claims}; uninstall all but one of them")
        return offers[0]

    def _missing(self, corner: Corner, name: str) -> ConfigurationError:
        for failure in self.failures:
            if failure.origin.entry_point == name:
                return _caused(PluginLoad(f"no {corner.value} '{name}': {failure.error}"), failure.error.__cause__)
        known = self.names(corner)
        others = [other for other in Corner if other is not corner and name in self.names(other)]
        text = f"no {corner.value} '{name}' is installed; known: {quoted(known)}"
        text += f"; '{name}' is a {others[0].value}" if others else closest(name, known)
        text += "".join(f"\nnot loaded: {failure.error}" for failure in self.failures)
        return UnknownPlugin(text)


@cache
def catalogue() -> Catalogue:
    """What is installed, looked up once in a process.  Never raises for what a plugin did; safe from any thread."""
    survey = _Survey()
    for found in _distributions():
        survey.take_distribution(found)
    return Catalogue(
        tuple(sorted(survey.offers, key=lambda offer: offer.origin)),
        tuple(sorted(survey.failures, key=lambda failure: failure.origin)),
    )


def reset() -> None:
    """Forget what was found, so that the next question looks again.  For tests."""
    catalogue.cache_clear()


def _distributions() -> Iterator[Distribution]:
    """Those with our group, each name once: a copy further down the path is shadowed by the first."""
    seen: set[str] = set()
    for candidate in distributions():
        if _has_group(candidate) and (name := _origin(candidate).distribution) not in seen:
            seen.add(name)
            yield candidate if name == _NAMELESS else distribution(name)


def _has_group(candidate: Distribution) -> bool:
    """Reads the text itself: one torn ``entry_points.txt`` makes ``importlib.metadata.entry_points()`` fail for all."""
    try:
        return f"[{GROUP}]" in (candidate.read_text("entry_points.txt") or "")
    except (OSError, ValueError):
        return False


_NAMELESS = "a distribution without a name"


def _origin(found: Distribution) -> Origin:
    try:
        metadata = found.metadata  # `.version` warns, or fails, where the header is missing
        name, version = (metadata[key] if key in metadata else "" for key in ("Name", "Version"))  # noqa: SIM401
        return Origin(name or _NAMELESS, version or Origin("").version)
    except Exception:  # metadata that is missing or torn
        return Origin(_NAMELESS)


@define
class _Survey:
    """Collects offers; turns whatever a plugin raises into a failure and goes on."""

    offers: list[Offer] = field(factory=list)
    failures: list[Failure] = field(factory=list)

    def take_distribution(self, found: Distribution) -> None:
        origin = _origin(found)
        with self._guarded(origin, "has an entry_points.txt that cannot be read"):
            for entry_point in found.entry_points.select(group=GROUP):
                self._take_entry_point(evolve(origin, entry_point=entry_point.name), entry_point)

    def _take_entry_point(self, origin: Origin, entry_point: EntryPoint) -> None:
        with self._guarded(origin, "could not be loaded"):
            plugin = entry_point.load()
            manager = PluginManager(GROUP)
            manager.add_hookspecs(hookspecs)
            manager.register(plugin)
            for complaint in _misspelt(manager, plugin):
                self._fail(origin, complaint)
            for hook in _RECORDS:
                self._take_hook(origin, manager, hook)

    def _take_hook(self, origin: Origin, manager: PluginManager, hook: str) -> None:
        caller = getattr(manager.hook, hook)
        if not caller.get_hookimpls():
            return
        with self._guarded(origin, f"failed in its hook '{hook}'"):
            for records in caller() or [None]:
                for record in records:
                    self._take_record(origin, hook, record)

    def _take_record(self, origin: Origin, hook: str, record: object) -> None:
        if isinstance(record, _RECORDS[hook]):
            self.offers.append(Offer(record, origin))
        else:
            self._fail(origin, f"gave {record!r} from its hook '{hook}'; allowed: {_RECORDS[hook].__name__} records")

    @contextmanager
    def _guarded(self, origin: Origin, complaint: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self._fail(origin, f"{complaint}: {explain(error)}", error)

    def _fail(self, origin: Origin, complaint: str, cause: BaseException | None = None) -> None:
        self.failures.append(Failure(origin, _caused(PluginLoad(f"{origin} {complaint}"), cause)))


def _misspelt(manager: PluginManager, plugin: object) -> Iterator[str]:
    """Complaints about functions that look like hooks and would silently never run."""
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec() and not all(each.optionalhook for each in caller.get_hookimpls()):
            yield f"has a hook '{caller.name}', which does not exist{closest(caller.name, _RECORDS)}"
    marked = {caller.name for caller in callers}
    unmarked = [name for name in dir(plugin) if name.startswith("tricorn_") and name in _RECORDS and name not in marked]
    for name in unmarked:
        yield f"has a function '{name}' that is not marked with @hookimpl"
    if not callers and not unmarked:
        yield f"has no hook; allowed: functions marked with @hookimpl and named {quoted(_RECORDS)}"


_E = TypeVar("_E", bound=BaseException)


def _caused(error: _E, cause: BaseException | None) -> _E:
    error.__cause__ = cause
    return error


def _class_flaw(target: Any, contract: type) -> str:
    if not isclass(target) or not issubclass(target, contract):
        return f"is not a subclass of {contract.__module__}.{contract.__qualname__}"
    missing: frozenset[str] = getattr(target, "__abstractmethods__", frozenset())
    return f"does not implement {quoted(sorted(missing))}" if missing else ""


def _transport_flaw(target: Any) -> str:
    if flaw := _class_flaw(target, Transport):
        return flaw
    has_kind = isinstance(getattr(target, "kind", None), (Kind, property))
    return "" if has_kind else "has no 'kind' of tricorn.contracts.Kind"


def _dispatcher_flaw(target: Any) -> str:
    if flaw := _class_flaw(target, Dispatcher):
        return flaw
    inherits = target.serve is Dispatcher.serve and target.dispatch is Dispatcher.dispatch
    return "implements neither 'serve' nor 'dispatch'" if inherits else ""


def _handler_flaw(target: Any) -> str:
    return "" if callable(target) else "cannot be called"


_FLAWS = {
    Corner.TRANSPORT: _transport_flaw,
    Corner.WRAPPER: _transport_flaw,
    Corner.DISPATCHER: _dispatcher_flaw,
    Corner.HANDLER: _handler_flaw,
}
