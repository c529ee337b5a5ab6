"""Where a server class comes from: its order of bases, and who in it has which method."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from tricorn.errors import ConfigurationError
from tricorn.explain.reading import names_used

__all__ = ["Lineage", "is_request_handler", "is_socketserver"]

_HOMES = ("socketserver", "tricorn.socketserver")


def is_socketserver(cls: type) -> bool:
    """Whether ``cls`` is one of `socketserver`'s own, the standard library's or the facade's."""
    return cls.__module__ in _HOMES or cls.__module__.startswith("tricorn.legacy")


def _has_base(cls: object, name: str) -> bool:
    return isinstance(cls, type) and any(is_socketserver(base) and base.__name__ == name for base in cls.__mro__)


def is_request_handler(cls: object) -> bool:
    """Whether ``cls`` is a request-handler class, of `socketserver` or of Tricorn."""
    if _has_base(cls, "BaseRequestHandler"):
        return True
    return isinstance(cls, type) and any(base.__module__ == "tricorn.handlers.request" for base in cls.__mro__)


@frozen
class Lineage:
    """A server class, seen through its order of bases (``object`` left out).  Makes no instance of it."""

    server: type

    @staticmethod
    def of(candidate: object, shown: str) -> Lineage:
        """The lineage of ``candidate``, which messages call ``shown``.

        Raises `ConfigurationError` for what is no server class of `socketserver`.
        """
        if _has_base(candidate, "BaseServer"):
            assert isinstance(candidate, type)
            return Lineage(candidate)
        if not isinstance(candidate, type):
            kind = type(candidate).__name__
            raise ConfigurationError(f"'{shown}' is no socketserver class: it is no class at all, but of type {kind}")
        if is_request_handler(candidate):
            raise ConfigurationError(
                f"'{shown}' is no server class but a request handler: name its server, and this by --handler"
            )
        bases = ", ".join(base.__name__ for base in candidate.__mro__[1:-1]) or "none but object"
        raise ConfigurationError(f"'{shown}' is no socketserver class: BaseServer is not among its bases ({bases})")

    @property
    def mro(self) -> tuple[type, ...]:
        """The order in which attributes are looked up."""
        return self.server.__mro__[:-1]

    @property
    def own(self) -> tuple[type, ...]:
        """The classes that are not `socketserver`'s own."""
        return tuple(cls for cls in self.mro if not is_socketserver(cls))

    @property
    def on_facade(self) -> bool:
        """Whether it stands on `tricorn.socketserver`, which has mended some of the original's faults."""
        return str(vars(self._named("BaseServer"))["serve_forever"].__module__).startswith("tricorn.")

    def _named(self, name: str) -> type:
        return next(cls for cls in self.mro if is_socketserver(cls) and cls.__name__ == name)

    def has(self, name: str) -> bool:
        """Whether that class of `socketserver` is among the bases."""
        return _has_base(self.server, name)

    @property
    def stream(self) -> bool:
        """Whether its requests are connections."""
        return self.has("TCPServer") and not self.has("UDPServer")

    @property
    def datagram(self) -> bool:
        """Whether its requests are packets."""
        return self.has("UDPServer")

    def holders(self, name: str) -> tuple[type, ...]:
        """The classes that define ``name``, the one that counts first."""
        return tuple(cls for cls in self.mro if name in vars(cls))

    def owner(self, name: str) -> type | None:
        """The class whose ``name`` counts."""
        return next(iter(self.holders(name)), None)

    def overrides(self, name: str) -> bool:
        """Whether somebody else than `socketserver` defines the ``name`` that counts."""
        owner = self.owner(name)
        return owner is not None and not is_socketserver(owner)

    def in_vain(self, cls: type, name: str) -> type | None:
        """The class of `socketserver` that comes before ``cls`` and hides its ``name``, if there is one."""
        before = self.mro[: self.mro.index(cls)]
        return next((each for each in before if is_socketserver(each) and name in vars(each)), None)

    @property
    def mix_ins(self) -> tuple[type, ...]:
        """The mix-ins of `socketserver` and of the facade among the bases."""
        return tuple(cls for cls in self.mro if is_socketserver(cls) and cls.__name__.endswith("MixIn"))

    @property
    def idle_mix_in(self) -> type | None:
        """A mix-in behind the server class, where it does nothing."""
        return next((cls for cls in self.mix_ins if self.in_vain(cls, "process_request")), None)

    @property
    def mix_in(self) -> type | None:
        """The mix-in that decides where requests run, also where an override of ours may call it."""
        return next((cls for cls in self.mix_ins if not self.in_vain(cls, "process_request")), None)

    def value(self, name: str) -> Any:
        """A class attribute; ``None`` where it has none."""
        return getattr(self.server, name, None)

    def sets(self, name: str) -> bool:
        """Whether a class of somebody else's sets ``name``."""
        return any(name in vars(cls) for cls in self.own)

    def users(self, method: str, *names: str) -> tuple[type, ...]:
        """The classes, other than `socketserver`'s, whose ``method`` mentions one of ``names``."""
        return tuple(cls for cls in self.own if method in vars(cls) and names_used(vars(cls)[method]) & set(names))
