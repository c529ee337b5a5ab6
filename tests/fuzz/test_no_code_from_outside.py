"""Nothing that arrives in a socket or a pipe is ever taken for code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing", "jsonpickle"}
#: Who sends the user's own function to the user's own pool.
ALLOWED = {
    "core/remote_messages.py": {"pickle", "cloudpickle", "multiprocessing"},
    "strategies/executor.py": {"cloudpickle", "multiprocessing"},
    "strategies/dask_cluster.py": {"cloudpickle"},
}
#: Annotations in the source of installed parts, as `typing.get_type_hints` evaluates them.
ALLOWED_CALLS = {"core/options.py": {"eval"}}
FOLDERS = ("core", "handlers", "strategies", "transports")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """The first parts of all names of modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_and_no_eval(path: Path) -> None:
    """By import, or by call."""
    tree, name = ast.parse(path.read_text()), str(path.relative_to(ROOT))
    assert imported(tree) & BANNED <= ALLOWED.get(name, set())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called & {"eval", "exec", "compile", "__import__"} <= ALLOWED_CALLS.get(name, set())
