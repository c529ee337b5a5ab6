"""The workshop: one test command everywhere, notes for users, and nothing that is true of one machine only."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
SKIPPED_FOLDERS = {".git", ".venv", ".tox", "build", "dist", "out", "__pycache__"}
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
]
TEXT = {".c", ".cfg", ".ini", ".md", ".py", ".pyi", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}


def files() -> Iterator[Path]:
    """What belongs to the repository: what git tracks or would track; without git, whatever is no product."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)]
    yield from (path for path in sorted(paths) if path.is_file() and path.suffix in TEXT)


def test_the_readme_has_two_commands_that_do_all_the_setting_up() -> None:
    """One shows a server at work, one runs the tests; both through an environment of the checkout's own."""
    shows, tests = COMMANDS
    assert shows.endswith(" && .venv/bin/python examples/quickstart.py")
    assert tests.endswith(" && .venv/bin/python -m tox run-parallel -p 3")


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    """Word for word."""
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_continuous_integration_can_be_run() -> None:
    """By its name, with an interpreter that is found where every system has it, and it stops at the first error."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


def test_every_python_of_the_classifiers_is_tested() -> None:
    """By an environment of tox, and by continuous integration."""
    minors = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    (environments,) = re.findall(r"^env_list = (.*)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    assert minors
    for minor in minors:
        assert f"py3{minor}" in environments.split(", ")
        assert f"3.{minor}" in (ROOT / ".ci" / "run").read_text()


def test_the_changelog_has_an_entry_for_this_version() -> None:
    """With something in it."""
    version = re.escape(PROJECT["project"]["version"])
    entry = re.search(rf"^## {version}\b.*\n((?:(?!## ).*\n)+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entry
    assert entry[1].strip()


def test_tricorn_needs_two_distributions_only() -> None:
    """Whatever else comes with an extra."""
    assert [re.match(r"[a-z]+", need)[0] for need in PROJECT["project"]["dependencies"]] == ["attrs", "pluggy"]


def test_every_exception_from_a_lint_rule_has_its_reason() -> None:
    """In a comment on the same line, or on the line above it."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("ignore = [")
    group_has_reason = False
    for line in lines[start + 1 : lines.index("]", start)]:
        if line.strip().startswith("#"):
            group_has_reason = True
        else:
            assert group_has_reason or "# " in line, line


@pytest.mark.parametrize(
    "pattern",
    [
        "/(?:home|Users|root)" + "/",
        "/(?:work|mnt|opt|srv)" + "/",
        "/usr/local" + "/",
        r"\.pyenv" + "/",
        "--(?:extra-)?index" + "-url",
        r"[a-z0-9.-]*\bpypi\." + r"[a-z]+",
    ],
)
def test_no_file_holds_what_is_true_of_one_machine_only(pattern: str) -> None:
    """No path of somebody's home, no address of somebody's package index."""
    here = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number} {match[0]}"
        for path in files()
        if path != here
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (match := re.search(pattern, line))
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    """Those to files of the repository."""
    text = (ROOT / page).read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not ((ROOT / page).parent / link).exists()] == []
