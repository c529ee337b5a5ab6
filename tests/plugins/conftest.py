"""Distributions that exist for one test only, found by the real importlib.metadata."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tricorn import plugins

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(name, entry_points, **modules)`` puts a distribution with these modules in front of ``sys.path``."""
    before = set(sys.modules)

    def install(name: str, entry_points: str, /, version: str | None = "1.0", **modules: str) -> Path:
        site = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
        info = site / f"{name.replace('-', '_')}-{version or 0}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", *([f"Version: {version}"] if version else [])]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(entry_points)
        for module, source in modules.items():
            (site / f"{module}.py").write_text(dedent(source))
        monkeypatch.syspath_prepend(str(site))
        plugins.reset()
        return site

    yield install
    for module in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]
    plugins.reset()


@pytest.fixture
def offer_dispatchers(install: Install) -> Callable[..., Path]:
    """``offer_dispatchers("acme", "loop", ...)``: a distribution whose one module offers working dispatchers."""

    def offer(name: str, *parts: str, version: str = "1.0") -> Path:
        module = name.replace("-", "_") + "_parts"
        yields = "".join(f"\n                yield DispatcherPart({part!r}, Loop)" for part in parts)
        source = f"""
            from tricorn.contracts import Dispatcher
            from tricorn.hookspecs import hookimpl
            from tricorn.parts import DispatcherPart

            class Loop(Dispatcher):
                "Goes round."
                def dispatch(self, job):
                    job.run()

            @hookimpl
            def tricorn_dispatchers():{yields}
            """
        return install(name, f"[tricorn]\nmain = {module}\n", version=version, **{module: source})

    return offer
