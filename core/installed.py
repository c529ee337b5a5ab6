"""What is installed, in full: for ``tricorn parts`` and for documentation."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any

from attrs import evolve, frozen

from tricorn.errors import ConfigurationError
from tricorn.importing import explain
from tricorn.names import part_options
from tricorn.options import Option
from tricorn.parts import Corner, Part, TransportPart, WrapperPart
from tricorn.plugins import Catalogue, Failure, Offer, Origin, catalogue

__all__ = ["InstalledPart", "installed_parts"]


@frozen
class InstalledPart:
    """One part, or one plugin that offers none because it is broken.

    ``kind`` is ``"transport"``, ``"wrapper"``, ``"dispatcher"``, ``"handler"`` or, for a broken plugin, ``"plugin"``.
    ``written`` is an example of the text to ask for it by.  ``error`` is why it cannot be used, or ``""``; then
    ``summary`` and ``options`` may be empty.
    """

    kind: str
    name: str
    origin: Origin
    written: str = ""
    summary: str = ""
    options: tuple[Option, ...] = ()
    error: str = ""

    @property
    def distribution(self) -> str:
        """The distribution that offers it."""
        return self.origin.distribution

    @property
    def version(self) -> str:
        """That distribution's version."""
        return self.origin.version


def installed_parts() -> tuple[InstalledPart, ...]:
    """Every part, by corner and name, and then the broken plugins.  Imports all of them; never raises for one.

    ``catalogue().names(corner)`` of `tricorn.plugins` gives the names alone, and imports none.
    """
    found = catalogue()
    order = list(Corner)
    offers = sorted(found.offers, key=lambda offer: (order.index(offer.part.corner), offer.part.name, offer.origin))
    return (*(_installed(offer, found) for offer in offers), *map(_broken, found.failures))


def _installed(offer: Offer, found: Catalogue) -> InstalledPart:
    part = offer.part
    written = _written(part)
    bare = InstalledPart(part.corner.value, part.name, offer.origin, written)
    try:
        found.find(part.corner, part.name)
        target = offer.load()
        return evolve(bare, summary=_summary(target), options=_options(offer, target))
    except ConfigurationError as error:
        return evolve(bare, error=str(error))
    except Exception as error:
        return evolve(bare, error=f"{offer} cannot be described: {explain(error)}")


def _written(part: Part) -> str:
    if isinstance(part, WrapperPart):
        return f"{part.name}+tcp://127.0.0.1:9999" + (f"?{part.example}" if part.example else "")
    return f"{part.name}:{part.locate.example}" if isinstance(part, TransportPart) else part.name


def _broken(failure: Failure) -> InstalledPart:
    return InstalledPart("plugin", failure.origin.entry_point, failure.origin, error=str(failure.error))


def _summary(target: Any) -> str:
    """The first sentence of the docstring, in one line."""
    paragraph = cleandoc(getattr(target, "__doc__", None) or "").partition("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]


def _options(offer: Offer, target: Any) -> tuple[Option, ...]:
    if offer.part.corner is Corner.HANDLER:
        return ()
    located: tuple[str, ...] = offer.part.locate.arguments if isinstance(offer.part, TransportPart) else ()
    if isinstance(offer.part, WrapperPart):
        located = (offer.part.inner,)
    return tuple(option for option in part_options(target) if option.name not in located)
