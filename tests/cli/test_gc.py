"""`gc`, from the command line to the disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mlxone.hub import in_use
from tests.cli.shelf import refreshed
from tests.hub.caches import commit


@pytest.fixture
def later(monkeypatch):
    """Two hours on: what was just written is old enough to go."""
    now = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: now)


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


def test_gc_looks_into_folders_named_on_the_command_line(mlxone, tmp_path):
    left = tmp_path / "org" / "model" / ".mlxone-trash-1"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(b"12345")
    assert mlxone("gc", "--yes").out == ""
    assert "1 leftover, 5 B" in mlxone("gc", "--yes", "--model-dir", str(tmp_path)).out
    assert not left.exists()
    assert mlxone("gc", "--model-dir", str(tmp_path / "none")).code == 2


@pytest.mark.parametrize("flags", [[], ["--force"]])
def test_what_a_download_fills_stays(mlxone, later, flags):
    repo = refreshed()
    with in_use.in_use(repo.folder / "snapshots" / commit(1), what="get"):
        result = mlxone("gc", "--yes", *flags)
    assert len(repo.commits) == 2
    assert "left alone: in use by `mlxone get`" in result.err
