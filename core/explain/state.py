"""What handlers find on the server beside the documented names, and how a composition gives it to them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from attrs import define, evolve, field, frozen

from tricorn.explain.constructing import PLAIN, Known, calls_in, expression, known_parameters
from tricorn.explain.lineage import Lineage, is_socketserver
from tricorn.explain.naming import Names
from tricorn.explain.overrides import DOCUMENTED
from tricorn.explain.reading import calls_super, function_of, functions_of, mangled, reads_of, self_of, tree_of
from tricorn.handling import ServerView

__all__ = ["State", "own_members", "state_of"]

#: What `ServerView` has for every handler.
PROVIDED = frozenset(
    {name for name in vars(ServerView) if not name.startswith("_")} | {"RequestHandlerClass", "tricorn"}
)
_INHERITED = frozenset(dir(object))


@frozen
class State:
    """The parts of a class ``State(ServerView)``: its further bases, its members, and the lines of its ``__init__``."""

    bases: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    #: Names that are `socketserver`'s own, and have no like.
    lost: tuple[str, ...] = ()
    #: Methods of the old class that could be carried over as they are.
    carried: frozenset[str] = frozenset()

    @property
    def needed(self) -> bool:
        """Whether there is anything to carry."""
        return bool(self.bases or self.members or self.lines)

    def and_lines(self, lines: Iterable[str]) -> State:
        """The same with further lines at the end."""
        return evolve(self, lines=(*self.lines, *lines))


def own_members(lineage: Lineage) -> frozenset[str]:
    """The names that the class adds: methods, class attributes, and what its constructors set."""
    named = {name for cls in lineage.own for name in vars(cls) if not name.startswith("__")}
    return frozenset((named | set(_set_in_init(lineage))) - DOCUMENTED - PROVIDED)


def state_of(lineage: Lineage, wanted: Iterable[str], names: Names, presets: dict[str, list[str]]) -> State:
    """What has to be carried for handlers that read ``wanted``, with what that needs in turn.

    ``presets`` has the lines for names that are set elsewhere than in a constructor.
    """
    return _Carrying(lineage, names, presets).carry(wanted)


def _servers(lineage: Lineage) -> tuple[type, ...]:
    """The classes of others that are servers, or mix-ins for them; not those that bring state of their own."""
    return tuple(cls for cls in lineage.own if not _brings_state(cls))


def _brings_state(cls: type) -> bool:
    if any(is_socketserver(base) for base in cls.__mro__) or cls.__module__ in ("abc", "typing", "collections.abc"):
        return False
    return not (DOCUMENTED - {"__init__", "__enter__", "__exit__"}) & vars(cls).keys()


def _state_bases(lineage: Lineage) -> list[type]:
    found = [cls for cls in lineage.own if _brings_state(cls)]
    return [cls for cls in found if not any(cls is not other and issubclass(other, cls) for other in found)]


def _set_in_init(lineage: Lineage) -> dict[str, str]:
    """The attributes that constructors set, each with the expression; known values stand for the parameters."""
    known = known_parameters(lineage)
    return {name: value for cls in reversed(_servers(lineage)) for name, value in _assignments(cls, known.get(cls, {}))}


def _assignments(cls: type, known: Known) -> Iterator[tuple[str, str]]:
    tree = tree_of(vars(cls).get("__init__"))
    own = None if tree is None else self_of(tree)
    if tree is None or own is None:
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == own:
                yield mangled(cls, target.attr), expression(node.value, known)


@define(eq=False)
class _Carrying:
    """The search for what has to be carried, and its findings."""

    lineage: Lineage
    names: Names
    presets: dict[str, list[str]]
    members: dict[str, str] = field(factory=dict)
    lines: list[str] = field(factory=list)
    bases: list[type] = field(factory=list)
    lost: set[str] = field(factory=set)
    carried: set[str] = field(factory=set)

    def carry(self, wanted: Iterable[str]) -> State:
        """The closure over what ``wanted`` needs."""
        waiting, seen = sorted(set(wanted)), set(PROVIDED | _INHERITED)
        assigned = _set_in_init(self.lineage)
        while waiting:
            name = waiting.pop(0)
            if name not in seen:
                seen.add(name)
                waiting += sorted(self._find(name, assigned) - seen)
        calls = [self._call(base) for base in self.bases if base.__init__ is not object.__init__]  # type: ignore[misc]
        shown = tuple(filter(None, map(self.names.of, self.bases)))
        lost, carried = tuple(sorted(self.lost)), frozenset(self.carried)
        return State(shown, tuple(self.members.values()), (*calls, *self.lines), lost, carried)

    def _call(self, base: type) -> str:
        """How the old class's constructors make a state base ready: with which values for its parameters."""
        init = next(cls for cls in base.__mro__ if "__init__" in vars(cls))
        called = init in {each for cls in self.lineage.own for each, _ in calls_in(cls, self.lineage)}
        values = known_parameters(self.lineage).get(init, {}) if called else {}
        return f"{self.names.of(base)}.__init__(self{''.join(f', {name}={value!r}' for name, value in values.items())})"

    def _find(self, name: str, assigned: dict[str, str]) -> set[str]:
        """Carry ``name``; returns what it needs in turn."""
        owner = self.lineage.owner(name)
        if name in self.presets:
            self.lines += self.presets[name]
        elif name in assigned:
            self.lines.append(f"self.{name} = {assigned[name]}")
        elif owner is None:
            self.lines.append(f"self.{name} = None  # no constructor sets it today")
        elif is_socketserver(owner):
            self.lost.add(name)
        else:
            return self._inherit(owner) if _brings_state(owner) else self._borrow(name, owner)
        return set()

    def _inherit(self, owner: type) -> set[str]:
        """Take the state base that ``owner`` belongs to, with what server classes override of it."""
        base = next(base for base in _state_bases(self.lineage) if issubclass(base, owner))
        if base in self.bases:
            return set()
        self.bases.append(base)
        owners = {name: self.lineage.owner(name) for cls in base.__mro__[:-1] for name in vars(cls)}
        overridden = {name for name, each in owners.items() if each is not None and not _brings_state(each)}
        read = {name for cls in base.__mro__[:-1] for each in functions_of(cls) for name in reads_of(cls, each)}
        elsewhere = {name for name in read if self.lineage.overrides(name) or name in _set_in_init(self.lineage)}
        return {name for name in overridden | elsewhere if not name.startswith("__")}

    def _borrow(self, name: str, owner: type) -> set[str]:
        member = vars(owner)[name]
        if isinstance(member, PLAIN):
            self.members[name] = f"{name} = {member!r}"
            return set()
        shown = self.names.of(owner)
        if calls_super(member) or shown is None:
            why = "it calls super()" if shown else "no module has the class"
            self.members[name] = f"# {name}: what {owner.__qualname__}.{name} is belongs here; {why}"
            return set()
        static = isinstance(member, staticmethod)
        self.members[name] = f"{name} = staticmethod({shown}.{name})" if static else f"{name} = {shown}.{name}"
        if function_of(member) is None or static:
            return set()
        self.carried.add(name)
        return set(reads_of(owner, member))
