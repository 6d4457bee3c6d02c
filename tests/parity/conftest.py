"""Parity is measured with MLX's own BLAS, dtypes and packed weights.

The BLAS is settled once in a process, so `make test` and `make parity` give this folder one of its
own with MLXONE_CPU=native. Beside other tests it is OpenBLAS for both systems, and must be equal too.
"""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXONE_CPU", "native")
