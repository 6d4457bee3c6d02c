"""`gc` and `rm`, from the command line to the disk."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from mlxone.cli import terminal
from mlxone.hub import in_use, places
from tests.cli.shelf import cached, refreshed
from tests.hub.caches import by_the_client, commit
from tests.sparse import write_model


@pytest.fixture
def later(monkeypatch):
    """Two hours on: what was just written is old enough to go."""
    now = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.fixture
def typed(monkeypatch, mlxone):
    def run(*args, answer):
        monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream in (sys.stdin, sys.stderr))
        return mlxone(*args, stdin=answer.encode())

    return run


def test_gc_only_plans(mlxone, later):
    repo = refreshed()
    result = mlxone("gc")
    assert result.out == "org/tiny: 1 snapshot, 1 file, 11 B\n11 B would come free\n"
    assert result.err == "nothing was deleted; --yes deletes\n"
    assert len(repo.commits) == 2


def test_gc_yes_deletes(mlxone, later):
    repo = refreshed()
    result = mlxone("gc", "--yes")
    assert result.out.endswith("\n11 B came free\n")
    assert repo.commits == {commit(2)}
    result = mlxone("gc", "--yes")
    assert (result.code, result.out, result.err) == (0, "", "nothing to delete\n")


def test_gc_leaves_what_is_young_and_says_so(mlxone):
    refreshed()
    result = mlxone("gc", "--yes")
    assert "younger than an hour" in result.err and "nothing to delete" in result.err


def test_gc_force(mlxone, later):
    repo = refreshed()
    (repo.folder / "snapshots" / commit(2) / "config.json").unlink()
    assert "only it has config.json" in mlxone("gc").err
    assert "1 snapshot" in mlxone("gc", "--force").out


def test_gc_as_json(mlxone, later):
    repo = refreshed()
    plan = json.loads(mlxone("gc", "--json").out)
    assert (plan["deleted"], plan["bytes"], plan["freed_bytes"]) == (False, 11, 0)
    assert plan["repos"][0]["snapshots"] == [str(repo.folder / "snapshots" / commit(1))]
    done = json.loads(mlxone("gc", "--json", "--yes").out)
    assert (done["deleted"], done["freed_bytes"], done["problems"]) == (True, 11, [])


def test_gc_names_what_it_cannot_delete(mlxone, later, monkeypatch):
    repo = refreshed()
    unlink = Path.unlink

    def refuse(path, **options):
        if path.parent.name == "blobs":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    result = mlxone("gc", "--yes")
    assert result.code == 9
    assert f"{repo.folder / 'blobs'}" in result.err and "Permission denied" in result.err


def test_gc_collects_what_a_removal_left_in_a_collection(mlxone, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXONE_MODEL_DIR", str(tmp_path))
    left = tmp_path / "org" / "model" / ".mlxone-trash-1"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(b"12345")
    assert "1 leftover, 5 B" in mlxone("gc", "--yes").out
    assert not left.exists()


# rm


def test_rm_asks_with_name_place_and_size(typed):
    repo = refreshed()
    result = typed("rm", "tiny", answer="y\n")
    assert (result.code, repo.folder.exists()) == (0, False)
    assert "org/tiny in huggingface, " in result.err and str(repo.folder) in result.err
    assert result.out.endswith(" B came free\n")
    assert by_the_client(places.hf_cache()).warnings == []


@pytest.mark.parametrize("answer", ["\n", "", "n\n", "what\n"])
def test_anything_but_yes_is_no(typed, answer):
    repo = refreshed()
    result = typed("rm", "tiny", answer=answer)
    assert (result.code, result.out, repo.folder.exists()) == (1, "", True)
    assert result.err.endswith("nothing was deleted\n")


def test_a_script_has_to_say_yes(mlxone):
    repo = refreshed()
    result = mlxone("rm", "tiny")
    assert (result.code, repo.folder.exists()) == (2, True)
    assert "--yes" in result.err
    assert mlxone("rm", "tiny", "--yes").code == 0
    assert not repo.folder.exists()


def test_an_ambiguous_name_lists_the_candidates(mlxone):
    cached("org/gemma-4-a", "gemma-4-e4b")
    cached("org/gemma-4-b", "gemma-4-e4b")
    result = mlxone("rm", "gemma", "--yes")
    assert result.code == 4
    assert "org/gemma-4-a" in result.err and "org/gemma-4-b" in result.err


@pytest.mark.parametrize("named", ["flag", "at", "path"])
def test_one_revision(mlxone, named):
    repo = refreshed()
    old = repo.folder / "snapshots" / commit(1)
    repo.ref("v1", 1)
    args = {"flag": ["tiny", "--revision", "v1"], "at": ["org/tiny@v1"], "path": [str(old)]}[named]
    assert mlxone("rm", *args, "--yes").code == 0
    assert repo.commits == {commit(2)}
    assert by_the_client(places.hf_cache()).warnings == []


def test_two_ways_to_name_a_revision_contradict(mlxone):
    refreshed()
    assert mlxone("rm", "org/tiny@main", "--revision", "main", "--yes").code == 2


def test_a_revision_that_is_not_there(mlxone):
    repo = refreshed()
    assert mlxone("rm", "tiny", "--revision", "v9", "--yes").code == 3
    assert len(repo.commits) == 2


def test_what_a_server_uses_stays(mlxone):
    repo = refreshed()
    with in_use.in_use(repo.folder / "snapshots" / commit(2), what="serve"):
        result = mlxone("rm", "tiny", "--yes")
    assert (result.code, repo.folder.exists()) == (9, True)
    assert "in use by `mlxone serve`" in result.err


def test_a_damaged_model_can_be_removed(mlxone):
    folder = cached("org/m", "gemma-4-e4b")
    next(folder.glob("*.safetensors")).write_bytes(b"no header")
    assert mlxone("rm", "org/m", "--yes").code == 0
    assert not folder.exists()


def test_so_can_the_rest_of_a_first_download(mlxone):
    folder = places.hf_cache() / "models--org--part" / "blobs"
    folder.mkdir(parents=True)
    (folder / "x.incomplete").write_bytes(b"123")
    assert mlxone("rm", "org/part", "--yes").out == "3 B came free\n"
    assert not folder.parent.exists()
    assert mlxone("rm", "org/part", "--yes").code == 3


def test_outside_the_cache_other_files_stay_and_are_named(mlxone, tmp_path):
    folder = write_model(tmp_path / "mine", "gemma-4-e4b")
    (folder / "notes.txt").write_text("mine")
    result = mlxone("rm", "mine", "--model-dir", str(tmp_path), "--yes")
    assert result.code == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert f"not a model's file, so it stays: {folder / 'notes.txt'}" in result.err


def test_another_copy_is_named(mlxone, tmp_path):
    cached("org/m", "gemma-4-e4b")
    copy = write_model(tmp_path / "org" / "m", "gemma-4-e4b")
    result = mlxone("rm", "org/m", "--model-dir", str(tmp_path), "--yes")
    assert f"another copy stays: {copy}" in result.err
    assert copy.exists()


def test_what_is_not_there(mlxone):
    assert mlxone("rm", "org/none", "--yes").code == 3


def test_the_starter_may_go_and_how_it_comes_back_is_said(mlxone):
    folder = write_model(places.starter_folder(), "gemma-4-e4b")
    result = mlxone("rm", "starter", "--yes")
    assert (result.code, list(folder.iterdir())) == (0, [])
    assert "the starter comes back by itself" in result.err
