"""The package's lazy names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tricorn.transports


@pytest.mark.parametrize("name", tricorn.transports.__all__)
def test_every_exported_name_is_a_transport(name):
    """Each name of ``__all__`` is a class that keeps the transport contract."""
    from tricorn.contracts import Transport

    assert issubclass(getattr(tricorn.transports, name), Transport)
    assert name in dir(tricorn.transports)


def test_unknown_name_is_an_attribute_error():
    """A name that the package has not raises `AttributeError` with the name."""
    with pytest.raises(AttributeError, match="Telepathy"):
        _ = tricorn.transports.Telepathy


def test_importing_the_package_loads_no_transport():
    """A transport's module is imported when its name is asked for, and not before."""
    program = """
import sys
import tricorn.transports
before = "tricorn.transports.tcp" in sys.modules
tricorn.transports.TCP
print(before, "tricorn.transports.tcp" in sys.modules, "tricorn.transports.udp" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["False", "True", "False"]
