"""Parity is measured with MLX's own BLAS, dtypes and packed weights.

The BLAS is settled when MLX is first imported in a process; `make test` gives this folder one of
its own. Beside other tests it would be OpenBLAS for both systems, and must be equal as well.
"""

from __future__ import annotations

import os

os.environ["MLXONE_CPU"] = "native"

import mlxone.backend.arrays  # noqa: F401

del os.environ["MLXONE_CPU"]

import pytest


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXONE_CPU", "native")
