"""A catalogue of a few parts that do nothing but remember how they were built."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import attrs
import pytest

from tricorn import plugins
from tricorn.contracts import Dispatcher, Kind, Transport
from tricorn.locations import HOST_AND_PORT, NOWHERE, PATH
from tricorn.parts import DispatcherPart, HandlerPart, TransportPart, WrapperPart
from tricorn.plugins import Catalogue, Offer, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Colour(Enum):
    """For an option that is one of several."""

    RED = "red"
    DEEP_BLUE = "deep-blue"


@attrs.frozen
class Net(Transport):
    """A host and a port."""

    kind: ClassVar[Kind] = Kind.STREAM
    host: str
    port: int
    backlog: int = 128
    reuse_port: bool = False
    balance: bool | Literal["balance"] = False

    def listen(self):
        return ()


@attrs.frozen
class File(Transport):
    """A path."""

    kind: ClassVar[Kind] = Kind.STREAM
    path: str
    mode: int = attrs.field(default=0o600, metadata={"help": "permission bits", "spell": oct})
    owner: str | None = None

    def listen(self):
        return ()


@attrs.frozen
class Void(Transport):
    """No place at all."""

    kind: ClassVar[Kind] = Kind.STREAM

    def listen(self):
        return ()


@attrs.frozen
class Crate(Transport):
    """Around another."""

    kind: ClassVar[Kind] = Kind.STREAM
    inner: Transport
    wood: str = attrs.field(default="fir")
    marks: tuple[str, ...] = ()

    @wood.validator
    def _is_wood(self, attribute, value):
        if value == "sand":
            raise ValueError("sand is no wood")

    def listen(self):
        return ()


@attrs.frozen
class Foil(Transport):
    """Around another, with another name for it."""

    kind: ClassVar[Kind] = Kind.STREAM
    content: Transport
    mode: int = 0

    def listen(self):
        return ()


@attrs.define(eq=False)
class One(Dispatcher):
    """Without options."""

    def dispatch(self, job):
        job.run()


@attrs.define(eq=False)
class Many(Dispatcher):
    """With an option of every type."""

    workers: int = attrs.field(default=4, validator=attrs.validators.instance_of(int))
    timeout: float | None = None
    name: str = "many"
    file: Path = attrs.field(factory=Path)
    folder: str | os.PathLike[str] = "."
    colour: Colour = Colour.RED
    level: Annotated[Literal[1, 2], "levels"] = 1
    inner: Dispatcher = attrs.field(factory=One)
    source: Transport | None = None
    hook: Callable[[], None] | None = None
    peers: Sequence[str] = ()
    _alias: int = 0
    hidden: int = attrs.field(default=0, init=False)

    @workers.validator
    def _positive(self, attribute, value):
        if value < 1:
            raise ValueError(f"workers must be at least 1, not {value}")

    def dispatch(self, job):
        job.run()


class Plain(Dispatcher):
    """An ordinary class, without attrs."""

    def __init__(self, size: int, *, label="x"):
        if label == "type":
            raise TypeError("no such type")
        self.size, self.label = size, label

    def dispatch(self, job):
        job.run()


@attrs.frozen
class Strict(Dispatcher):
    """With the validators that attrs brings."""

    share: float = attrs.field(default=0.5, validator=attrs.validators.le(1))
    side: str = attrs.field(default="l", validator=attrs.validators.in_(["l", "r"]))

    def dispatch(self, job):
        job.run()


def catalogue() -> Catalogue:
    """All of the above, offered by one distribution."""
    parts = [
        TransportPart("net", Net, HOST_AND_PORT),
        TransportPart("file", File, PATH),
        TransportPart("void", Void, NOWHERE),
        WrapperPart("crate", Crate),
        WrapperPart("foil", Foil, inner="content"),
        DispatcherPart("one", One),
        DispatcherPart("many", Many),
        DispatcherPart("plain", Plain),
        DispatcherPart("strict", Strict),
        HandlerPart("shout", print),
        HandlerPart("gone", "tricorn_nowhere:gone"),
    ]
    return Catalogue(tuple(Offer(part, Origin("acme", "1.0", "parts")) for part in parts), ())


@pytest.fixture(autouse=True)
def only_these_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here depends on what is installed."""
    monkeypatch.setattr(plugins, "catalogue", catalogue)
