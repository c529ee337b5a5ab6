"""The catalogue itself: each of its 66 entries has a scenario here, or a test elsewhere that exists."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def catalogue() -> tuple[list, dict]:
    """The scenarios, and where other entries are tested."""
    sys.path.insert(0, str(HERE))
    try:
        run = importlib.import_module("run")
        return run.SCENARIOS, dict(run.ELSEWHERE)
    finally:
        sys.path.remove(str(HERE))


def test_every_entry_has_its_test(catalogue) -> None:
    """From 1 to 66."""
    scenarios, elsewhere = catalogue
    assert {each.number for each in scenarios} | elsewhere.keys() == set(range(1, 67))


def test_tests_elsewhere_exist(catalogue) -> None:
    """The file, and the function in it."""
    for place in catalogue[1].values():
        path, _, name = place.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name in functions, place


def test_a_cell_that_is_empty_has_its_reason(catalogue) -> None:
    """Whoever is left out is told why."""
    for scenario in catalogue[0]:
        assert scenario.reason or len(scenario.on) == 10, scenario.name
        assert scenario.run.__doc__
