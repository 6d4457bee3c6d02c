from __future__ import annotations

from pathlib import Path

import pytest

import mlxone
from tests.engine import tiny
from tests.service.rig import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def model(folder: Path) -> mlxone.Model:
    """Real arithmetic on random weights."""
    return mlxone.load(folder)


@pytest.fixture(scope="session")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> mlxone.Model:
    return mlxone.load(write_folder(tmp_path_factory.mktemp("model") / "sliding", tiny.SLIDING))
