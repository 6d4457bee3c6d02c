from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxone.backend.arrays import mx
from tests.engine import tiny


@pytest.fixture(scope="session")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def sliding_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("sliding"), tiny.SLIDING)


@pytest.fixture
def plainly_run() -> Iterator[None]:
    """mlx-lm compiles its samplers; on a CPU that would call a C++ compiler for each."""
    mx.disable_compile()
    yield
    mx.enable_compile()
