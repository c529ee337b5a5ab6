"""The shape of the code: sizes, docstrings, names that are there, and one copy of every module."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import tricorn

ROOT = Path(__file__).parents[1]
#: The folders that are the package, by the name they are imported under; see [tool.setuptools.package-dir].
FOLDERS = {
    "core": "tricorn",
    "handlers": "tricorn.handlers",
    "strategies": "tricorn.strategies",
    "transports": "tricorn.transports",
}
PARTS_OF_THE_REPOSITORY = (*FOLDERS, "tests", "examples", "benchmarks")
MAX_FUNCTION_LINES = 50
MAX_FILE_LINES = 400
LEAVES = ("deadline", "errors", "events", "kinds", "lifecycle", "wakeup")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> Iterator[Path]:
    """The Python files of these folders that belong to the repository."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"build", "out", ".venv", ".tox"} & set(path.relative_to(ROOT).parts):
                yield path


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def lines_of(function: Function) -> int:
    """From `def` to the end, without the docstring."""
    docstring = 0
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        docstring = (first.end_lineno or 0) - first.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def module_names() -> list[str]:
    """Every module of the installed package; `__main__` would run if it were imported."""
    found = pkgutil.walk_packages(tricorn.__path__, "tricorn.")
    return ["tricorn", *(each.name for each in found if not each.name.endswith(".__main__"))]


@pytest.fixture(params=module_names())
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each module of the package in turn."""
    if request.param.startswith("tricorn.cli"):
        pytest.importorskip("click", reason="the extra 'cli' is not installed")
    return importlib.import_module(request.param)


def test_no_function_is_longer_than_fifty_lines() -> None:
    """Docstrings not counted.  What must be longer for speed gets a file of its own, and a word here."""
    too_long = [
        f"{shown(path)}:{node.lineno} {node.name}: {lines_of(node)}"
        for path in sources(*PARTS_OF_THE_REPOSITORY)
        for node in ast.walk(tree_of(path))
        if isinstance(node, Function) and lines_of(node) > MAX_FUNCTION_LINES
    ]
    assert too_long == []


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    """Tests included: a longer one has two subjects."""
    lengths = {shown(path): len(path.read_text().splitlines()) for path in sources(*PARTS_OF_THE_REPOSITORY)}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    """In its docstring; tests and examples too."""
    assert [shown(path) for path in sources(*PARTS_OF_THE_REPOSITORY) if not ast.get_docstring(tree_of(path))] == []


def test_nobody_imports_the_folders_by_their_own_names() -> None:
    """`import core` from the repository's root would make a second copy of every class."""
    found = [
        f"{shown(path)}:{line} {name}"
        for path in sources(*PARTS_OF_THE_REPOSITORY)
        for line, name in imports_of(tree_of(path))
        if name.partition(".")[0] in FOLDERS
    ]
    assert found == []


def test_nobody_imports_relatively() -> None:
    """A module's full name is the only one that is right in every folder."""
    found = [
        f"{shown(path)}:{line}"
        for path in sources(*FOLDERS)
        for line, name in imports_of(tree_of(path))
        if name.startswith(".")
    ]
    assert found == []


def test_every_module_of_the_core_is_on_the_map() -> None:
    """In the table of rooms of docs/architecture.md, which says what it owns."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    modules = {path.relative_to(ROOT / "core").parts[0].removesuffix(".py") for path in sources("core")} - {"__init__"}
    assert [name for name in sorted(modules) if f"`{name}`" not in page] == []


def test_leaves_import_the_standard_library_and_attrs_only() -> None:
    """And each other."""
    allowed = {*sys.stdlib_module_names, "attrs", *(f"tricorn.{leaf}" for leaf in LEAVES)}
    found = [
        f"core/{leaf}.py:{line} {name}"
        for leaf in LEAVES
        for line, name in imports_of(tree_of(ROOT / "core" / f"{leaf}.py"))
        if name not in allowed and name.partition(".")[0] not in allowed
    ]
    assert found == []


def test_the_package_is_what_the_folders_hold() -> None:
    """Every module is installed, and nothing else: no leftover of an earlier build."""
    here = set()
    for folder, package in FOLDERS.items():
        for path in sources(folder):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            here.add(".".join([package, *(part for part in parts if part != "__init__")]))
    installed = {each.name for each in pkgutil.walk_packages(tricorn.__path__, "tricorn.")}
    assert installed | {"tricorn"} == here


def test_every_public_module_says_what_it_offers(module: ModuleType) -> None:
    """`__all__` is there, without doubles, and every name in it exists, also where it is imported lazily."""
    names = module.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


def test_a_lazy_package_refuses_what_it_does_not_have(module: ModuleType) -> None:
    """With `AttributeError`, as any module does; `hasattr` and `from ... import` rely on it."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_importing_the_package_imports_no_part() -> None:
    """`import tricorn` costs next to nothing."""
    code = (
        "import sys, tricorn; print(*[name for name in sys.modules if name.startswith(('tricorn.', 'attr', 'pluggy'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == ""


def test_the_package_is_typed() -> None:
    """The marker of PEP 561 is installed."""
    assert (Path(tricorn.__path__[0]) / "py.typed").is_file()
