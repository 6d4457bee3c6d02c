"""However the disk changes, looking only at what changed says the same as looking at everything."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.hub import places
from mlxone.hub.registry import Registry
from tests.hub.shelves import afresh, model, repo, repo_folder, settle, without_times

REPOS = st.sampled_from(["org/a", "org/b", "org/Draft-c", "d"])
COMMITS = st.sampled_from(["a" * 40, "b" * 40, "c" * 40])
FOLDERS = st.sampled_from(["x", "org/x", "org/y", "org"])


def add(name: str, commit: str, size: int) -> None:
    repo(name, commit, main=False, parameters=size)


def add_as_main(name: str, commit: str, size: int) -> None:
    repo(name, commit, parameters=size)


def remove(name: str, commit: str, size: int) -> None:
    shutil.rmtree(repo_folder(name), ignore_errors=True)


def remove_snapshot(name: str, commit: str, size: int) -> None:
    shutil.rmtree(repo_folder(name) / "snapshots" / commit, ignore_errors=True)


def rename(name: str, commit: str, size: int) -> None:
    other = repo_folder("org/renamed" if size % 2 else "org/a")
    if repo_folder(name).exists() and not other.exists():
        repo_folder(name).rename(other)


def swap(name: str, commit: str, size: int) -> None:
    one, other, aside = repo_folder(name), repo_folder("org/a"), repo_folder("org/aside")
    if one != other and one.exists() and other.exists():
        one.rename(aside)
        other.rename(one)
        aside.rename(other)


def move_main(name: str, commit: str, size: int) -> None:
    if repo_folder(name).exists():
        (repo_folder(name) / "refs" / "main").write_text(commit)


def drop_main(name: str, commit: str, size: int) -> None:
    (repo_folder(name) / "refs" / "main").unlink(missing_ok=True)


def drop_blob(name: str, commit: str, size: int) -> None:
    for kind in ("model.safetensors", "config.json")[size % 2 :]:
        (repo_folder(name) / "blobs" / f"{kind}-{commit[:8]}").unlink(missing_ok=True)


def drop_link(name: str, commit: str, size: int) -> None:
    (repo_folder(name) / "snapshots" / commit / "config.json").unlink(missing_ok=True)


def link_snapshot(name: str, commit: str, size: int) -> None:
    """Another commit of the same files: no blob is new."""
    folder = repo_folder(name) / "snapshots"
    if (folder / commit).exists() and not (folder / ("d" * 40)).exists():
        shutil.copytree(folder / commit, folder / ("d" * 40), symlinks=True)


def write_card(name: str, commit: str, size: int) -> None:
    folder = repo_folder(name) / "snapshots" / commit
    if folder.exists():
        (folder / "README.md").write_text(f"---\nlicense: l-{size}\n---\n")


CACHE_ACTS = [
    add, add_as_main, remove, remove_snapshot, rename, swap, move_main, drop_main, drop_blob, drop_link,
    write_card, link_snapshot,
]  # fmt: skip


def put(root: Path, name: str, size: int) -> None:
    model(root / name, parameters=size)


def put_config(root: Path, name: str, size: int) -> None:
    model(root / name, parameters=size, max_position_embeddings=size)


def put_gguf(root: Path, name: str, size: int) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / f"m-{size % 2 + 1:05}-of-00002.gguf").write_bytes(b"GGUF" + bytes(size))


def drop(root: Path, name: str, size: int) -> None:
    shutil.rmtree(root / name, ignore_errors=True)


def drop_weights(root: Path, name: str, size: int) -> None:
    (root / name / "model.safetensors").unlink(missing_ok=True)


def move(root: Path, name: str, size: int) -> None:
    there = root / f"moved-{size % 2}"
    if (root / name).exists() and not there.exists():
        (root / name).rename(there)


FOLDER_ACTS = [put, put_config, put_gguf, drop, drop_weights, move]
SIZES = st.integers(1, 6)
STEPS = st.lists(
    st.tuples(st.sampled_from(CACHE_ACTS), REPOS, COMMITS, SIZES)
    | st.tuples(st.sampled_from(FOLDER_ACTS), FOLDERS, SIZES),
    min_size=1,
    max_size=10,
)


@given(steps=STEPS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_increments_are_enough(
    home: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[Callable, ...]]
):
    with tempfile.TemporaryDirectory() as place, monkeypatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", f"{place}/hub")
        patch.setenv("MLXONE_HOME", f"{place}/mlxone")
        patch.setenv("MLXONE_MODEL_DIR", f"{place}/models")
        root = Path(place, "models")
        root.mkdir()
        places.hf_cache().mkdir()
        for act, *arguments in steps:
            if len(arguments) == 3:
                act(*arguments)
            else:
                act(root, *arguments)
            settle(places.hf_cache(), root)
            with Registry() as registry:
                assert without_times(registry.list(all_revisions=True)) == afresh(Path(place))
                assert registry.notices == []


@pytest.mark.parametrize("act", CACHE_ACTS)
@pytest.mark.parametrize("commit", ["a" * 40, "b" * 40])
def test_each_change_of_a_repo_is_seen(home: Path, tmp_path: Path, act: Callable, commit: str):
    for name in ("org/a", "org/b"):
        add(name, "a" * 40, 1)
        add_as_main(name, "b" * 40, 2)
    settle(home)
    Registry().scan()
    act("org/b", commit, 3)
    settle(home)
    assert without_times(Registry().list(all_revisions=True)) == afresh(tmp_path)


@pytest.mark.parametrize("act", FOLDER_ACTS)
def test_each_change_of_a_folder_is_seen(
    home: Path, tmp_path: Path, act: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLXONE_MODEL_DIR", str(tmp_path / "models"))
    for name in ("x", "org/y"):
        put(tmp_path / "models", name, 1)
    settle(home, tmp_path)
    Registry().scan()
    act(tmp_path / "models", "org/y", 3)
    settle(home, tmp_path)
    assert without_times(Registry().list(all_revisions=True)) == afresh(tmp_path)
