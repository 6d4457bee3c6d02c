from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlxone.core.errors import UsageError
from mlxone.hub import places
from mlxone.hub.sources import sources


def folders(name: str, *given: str | Path) -> list[Path]:
    return [source.folder for source in sources(given) if source.name == name]


def test_the_table(home: Path):
    assert [(s.name, s.folder) for s in sources()] == [
        ("huggingface", places.hf_cache()),
        ("lmstudio", home / ".lmstudio" / "models"),
        ("lmstudio", home / ".cache" / "lm-studio" / "models"),
        ("mlx-serve", home / ".mlx-serve" / "models"),
        ("starter", places.starter_folder()),
    ]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"downloadsFolder": 3}', '{"downloadsFolder": "x"}'])
def test_settings_of_lm_studio_that_say_nothing(home: Path, content: str):
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text(content)
    assert folders("lmstudio")[0] == home / ".lmstudio" / "models"


def test_lm_studio_s_own_choice(home: Path, tmp_path: Path):
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path)}))
    assert folders("lmstudio")[0] == tmp_path


def test_folders_of_one_s_own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "flag").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLXONE_MODEL_DIR", os.pathsep.join(["/env/a", "", "~/b"]))
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text('model_dirs = ["/conf", "~/c", "/env/a"]')
    assert folders("model-dir", "flag") == [
        tmp_path / "flag",
        Path("/env/a"),
        home / "b",
        Path("/conf"),
        home / "c",
    ]


@pytest.mark.parametrize("value", ['"x"', "[3]", '[""]', '["relative/path"]', '["/a\\u0000b"]'])
def test_a_setting_that_cannot_be_meant(value: str):
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text(f"model_dirs = {value}")
    with pytest.raises(UsageError, match="model_dirs"):
        sources()


def test_a_folder_counts_for_its_first_source(home: Path, tmp_path: Path):
    (home / ".lmstudio" / "models").mkdir(parents=True)
    (tmp_path / "link").symlink_to(home / ".lmstudio" / "models")
    assert folders("model-dir", tmp_path / "link") == []
    with pytest.raises(UsageError, match="none is not a folder"):
        sources([tmp_path / "none"])
