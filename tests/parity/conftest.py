"""Parity is measured with MLX's own BLAS, dtypes and packed weights.

The BLAS is settled once in a process, so `make test` and `make parity` give this folder one of its
own with MLXONE_CPU=native. Beside other tests it is OpenBLAS for both systems, and must be equal too.
"""

from __future__ import annotations

import platform
from importlib.metadata import version

import pytest

from mlxone.backend import probe


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXONE_CPU", "native")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the answer is an answer about: worth sending along from machines that nobody here has."""
    facts = probe.facts()
    device = ", ".join(str(facts[key]) for key in ("kind", "name", "architecture") if key in facts)
    terminalreporter.write_line(
        f"parity measured on: {device}; {platform.system()} {platform.machine()}, "
        f"MLX {version('mlx')}, mlx-lm {version('mlx-lm')}, Python {platform.python_version()}"
    )
