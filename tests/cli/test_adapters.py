"""`--adapter [NAME=]DIR`: what the words on a line mean, and where what they name arrives."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxone.cli.adapters import named_folders
from mlxone.cli.serve_plan import plan
from mlxone.cli.serve_values import values
from mlxone.core.errors import AdapterNotFound, UsageError


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("upper", "json", "x=y", "bad name", "runs/upper"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "name", "path"),
    [
        ("upper", "upper", "upper"),
        ("./upper/", "upper", "upper"),
        ("runs/../json", "json", "runs/../json"),
        ("formal=upper", "formal", "upper"),
        ("upper=json", "upper", "json"),
        ("n=x=y", "n", "x=y"),
        ("n=bad name", "n", "bad name"),
    ],
)
def test_a_word(folders: Path, word: str, name: str, path: str):
    assert named_folders([word], "--adapter") == {name: Path(path)}


def test_the_working_folder_has_a_name(folders: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folders / "runs" / "upper")
    assert named_folders(["."], "--adapter") == {"upper": Path()}


def test_the_order_stays(folders: Path):
    assert list(named_folders(["json", "a=upper", "upper"], "--adapter")) == ["json", "a", "upper"]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (["missing"], AdapterNotFound, "--adapter missing is no folder"),
        (["a=missing"], AdapterNotFound, "--adapter missing is no folder"),
        (["a=" + 300 * "x"], AdapterNotFound, "is no folder"),
        (["bad name"], UsageError, "cannot be called 'bad name'"),
        (["x=y"], UsageError, "cannot be called 'x=y'"),
        (["none=upper"], UsageError, "cannot be called 'none'"),
        (["a+b=upper"], UsageError, "cannot be called 'a\\+b'"),
        (["=upper"], UsageError, "cannot be called ''"),
        (["upper", "runs/upper"], UsageError, "two adapters the name 'upper'"),
        (["/"], UsageError, "cannot be called ''"),
    ],
)
def test_what_names_no_adapter(folders: Path, words: list[str], error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        named_folders(words, "--adapter")


def test_a_server_gets_them_from_wherever_they_are_said(folders: Path):
    for flags, environ, config in (
        ({"adapter": ("a=upper",), "adapter_dir": "runs"}, {}, {}),
        ({}, {"MLXONE_ADAPTER": "a=upper", "MLXONE_ADAPTER_DIR": "runs"}, {}),
        ({}, {}, {"adapter": ["a=upper"], "adapter_dir": "runs"}),
    ):
        found = values(flags, environ, config, Path("config.toml"))
        made = plan({n: one.value for n, one in found.items()}, {n: one.shown_as for n, one in found.items()})
        assert made.options.adapters == {"a": Path("upper")} and made.options.adapter_dir == Path("runs")
    with pytest.raises(AdapterNotFound, match="MLXONE_ADAPTER missing is no folder"):
        plan({"adapter": ("missing",)}, {"adapter": "MLXONE_ADAPTER"})
    with pytest.raises(UsageError, match="--adapter-dir missing is no folder"):
        plan({"adapter_dir": "missing"})


@pytest.mark.parametrize("flag", ["--adapter", "--adapter-path"])
def test_run_uses_all_it_is_given_together(mlxone, stage, folders: Path, flag: str):
    assert mlxone("run", "scripted", "Hi", flag, "upper", flag, "j=json").code == 0
    assert stage.asked[0].adapter == "upper+j"
    assert mlxone("run", "scripted", "Hi").code == 0
    assert stage.asked[1].adapter is None


def test_run_says_what_is_wrong_before_it_loads(mlxone, stage, folders: Path):
    missing = mlxone("run", "scripted", "Hi", "--adapter", "missing")
    assert (missing.code, missing.out) == (3, "") and "--adapter missing is no folder" in missing.err
    assert mlxone("run", "scripted", "Hi", "--adapter", "none=upper").code == 2
    assert stage.loaded == []
