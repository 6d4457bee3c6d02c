"""Random caches, and kills at random moments: what is left always serves every ref."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.hub import gc, trash
from tests.hub.caches import Repo, by_the_client, bytes_on_disk, commit, contents, etag

LATER = 2 * 3600.0
NAMES = ("config.json", "model.safetensors", "tokenizer.json", "deep/er/file.txt")
CONTENT = st.binary(min_size=1, max_size=3)  # few, so that snapshots share

SNAPSHOT = st.dictionaries(st.sampled_from(NAMES), CONTENT, min_size=1)
REPO = st.fixed_dictionaries(
    {
        "snapshots": st.lists(SNAPSHOT, min_size=1, max_size=4),
        "refs": st.dictionaries(st.sampled_from(("main", "v1", "refs/pr/1")), st.integers(0, 3), max_size=3),
        "orphans": st.lists(CONTENT, max_size=2),
        "parts": st.booleans(),
        "links": st.sampled_from(("symbolic", "hard", "none")),
    }
)
CACHE = st.lists(REPO, min_size=1, max_size=3)


def build(cache: Path, plan: list[dict]) -> list[Repo]:
    repos = []
    for number, wanted in enumerate(plan):
        repo = Repo.make(cache, f"org/model-{number}")
        for n, files in enumerate(wanted["snapshots"]):
            make_real(repo.snapshot(n, files), wanted["links"])
        for name, n in wanted["refs"].items():
            repo.ref(name, n % len(wanted["snapshots"]))
        for content in wanted["orphans"]:
            repo.blob(content)
        if wanted["parts"]:
            repo.blob(b"part", "x.incomplete")
        repos.append(repo)
    return repos


def make_real(snapshot: Path, how: str) -> None:
    """The same snapshot as a client lays it out that cannot or will not make symbolic links."""
    if how == "symbolic":
        return
    for link in [path for path in snapshot.rglob("*") if path.is_symlink()]:
        blob = link.resolve()
        link.unlink()
        if how == "hard":
            os.link(blob, link)
        else:
            shutil.copy(blob, link)


def named(repos: list[Repo]) -> dict[Path, dict[str, bytes]]:
    """What every ref means: its snapshot's files and what is in them."""
    refs = (ref for repo in repos for ref in (repo.folder / "refs").rglob("*") if ref.is_file())
    snapshots = {ref: _repo_of(ref) / "snapshots" / ref.read_text() for ref in refs}
    return {ref: contents(folder) for ref, folder in snapshots.items()}


def _repo_of(ref: Path) -> Path:
    return next(
        parent.parent for parent in ref.parents if parent.name == "refs" and "--" in str(parent.parent.name)
    )


@given(CACHE, st.booleans())
def test_every_ref_is_served_as_before_and_the_bytes_are_those_on_disk(plan, force):
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        repos = build(cache, plan)
        meant, before = named(repos), bytes_on_disk(cache)
        parts = sorted(cache.rglob("*.incomplete"))

        planned = gc.plan(cache, force=force, now=time.time() + LATER)
        done = gc.execute(planned)

        assert named(repos) == meant
        assert done.problems == []
        assert planned.bytes == done.freed_bytes == before - bytes_on_disk(cache)
        assert by_the_client(cache).warnings == []
        assert sorted(cache.rglob("*.incomplete")) == parts
        assert gc.plan(cache, force=force, now=time.time() + LATER).is_empty
        for repo, wanted in zip(repos, plan, strict=True):
            check_what_is_left(repo, wanted, force)


def check_what_is_left(repo: Repo, wanted: dict, force: bool) -> None:
    """Said anew, in sets: which snapshots stay, and exactly the blobs that they link to."""
    count = len(wanted["snapshots"])
    kept = {n % count for n in wanted["refs"].values()}
    left = {int(name, 16) for name in repo.commits}
    assert kept <= left and left
    if force and "main" in wanted["refs"]:
        assert left == kept
    linked = {p.resolve().name for p in (repo.folder / "snapshots").rglob("*") if p.is_symlink()}
    if wanted["links"] == "symbolic":
        assert repo.blobs - {"x.incomplete"} == linked


# SIGKILL: a process of its own that is stopped dead at its n-th change to the disk.

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from mlxone.hub import gc, trash
left = int(sys.argv[2])
def counted(change):
    def wrapped(*args, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return change(*args, **options)
    return wrapped
for name in ("unlink", "rename"):
    setattr(Path, name, counted(getattr(Path, name)))
os.rmdir = counted(os.rmdir)
exec(sys.argv[3])
"""
COLLECT = "gc.execute(gc.plan(Path(sys.argv[1]), now=time.time() + 7200))"
REMOVE = """
from mlxone.hub import remove
from mlxone.hub.entry import Entry
path = Path(sys.argv[1])
remove.remove(remove.removal(Entry("org/model", path, "x", "safetensors", 0)))
"""
OLD = {"config.json": b"old", "model.safetensors": b"old weights", "deep/er/file.txt": b"same"}
NEW = {"config.json": b"new", "model.safetensors": b"new weights", "deep/er/file.txt": b"same"}


def killed_after(path: Path, changes: int, what: str) -> bool:
    code = subprocess.run([sys.executable, "-c", PROGRAM, path, str(changes), what], check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture(params=range(0, 12, 2))
def kill_point(request) -> int:
    return request.param


def test_a_kill_at_any_moment_leaves_a_valid_cache(tmp_path, kill_point):
    repo = Repo.make(tmp_path, "org/model")
    repo.snapshot(1, OLD)
    kept = repo.snapshot(2, NEW, ref="main")
    repo.blob(b"orphan")

    killed = killed_after(tmp_path, kill_point, COLLECT)
    assert killed == (kill_point < 10)  # renaming, 3 links, 3 folders, 3 blobs
    assert by_the_client(tmp_path).warnings == []
    for name in repo.commits:
        folder = repo.folder / "snapshots" / name
        assert contents(folder) == (NEW if name == commit(2) else OLD)  # whole, or not to be seen

    gc.execute(gc.plan(tmp_path, now=time.time() + LATER))
    assert contents(kept) == NEW
    assert repo.commits == {commit(2)}
    assert repo.blobs == {etag(content) for content in NEW.values()}
    assert list(tmp_path.rglob(".mlxone-trash-*")) == []


@pytest.mark.parametrize("place", ["cache", "folder"])
def test_a_kill_during_a_removal_leaves_a_whole_model_or_none(tmp_path, kill_point, place):
    cache, models = tmp_path / "hub", tmp_path / "models"
    model = Repo.make(cache, "org/model").snapshot(1, NEW, ref="main")
    if place == "folder":
        model = Path(shutil.copytree(model, models / "model"))
    assert killed_after(model, kill_point, REMOVE) == (kill_point < {"cache": 15, "folder": 5}[place])
    if (model / "config.json").exists():
        assert contents(model) == NEW
    gc.execute(gc.plan(cache, now=time.time() + LATER, elsewhere=[*trash.holders(models, 2)]))
    assert list(tmp_path.rglob(".mlxone-trash-*")) == []
    if place == "cache" and kill_point:
        assert bytes_on_disk(cache) == 0
