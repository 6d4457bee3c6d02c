from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

import mlxone
from mlxone.backend import arrays
from mlxone.backend.arrays import mx
from tests.engine import tiny
from tests.service.adapter_folders import write_adapter
from tests.service.rig import Stage, write_folder


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


@pytest.fixture
def own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of a test is not MLX's limit for the tests after it."""
    monkeypatch.setattr(arrays, "_limits", WeakKeyDictionary())
    monkeypatch.setattr(arrays, "_mlx_limit", None)
    monkeypatch.setattr(mx, "set_memory_limit", lambda size: size)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


@pytest.fixture
def shelf(tmp_path: Path, folder: Path) -> Path:
    """A folder with the adapters a, b and c."""
    for seed, id in enumerate("abc"):
        write_adapter(tmp_path / "shelf" / id, folder, seed=seed + 1)
    return tmp_path / "shelf"
