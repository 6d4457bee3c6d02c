"""What gc takes and what it leaves. Time is moved on instead of waited for."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from mlxone.hub import cache_tree, gc, in_use, partial
from mlxone.hub.trash import Swept
from tests.hub.caches import Repo, by_the_client, bytes_on_disk, commit, contents, etag

LATER = 2 * 3600.0

OLD = {"config.json": b"{}", "model.safetensors": b"old weights", "tokenizer.json": b"same"}
NEW = {"config.json": b"{}", "model.safetensors": b"new weights!", "tokenizer.json": b"same"}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture
def repo(cache: Path) -> Repo:
    """Refreshed once: the first snapshot is superseded, one blob is used by both."""
    repo = Repo.make(cache, "org/model")
    repo.snapshot(1, OLD)
    repo.snapshot(2, NEW, ref="main")
    return repo


def planned(cache: Path, **options) -> gc.Plan:
    return gc.plan(cache, now=time.time() + LATER, **options)


def collected(cache: Path, **options) -> Swept:
    return gc.execute(planned(cache, **options))


def notes(plan: gc.Plan) -> str:
    return "\n".join(note for repo in plan.repos for note in repo.notes)


def test_a_superseded_snapshot_goes_with_what_it_alone_used(cache, repo):
    before = bytes_on_disk(cache)
    plan = planned(cache)
    assert [(p.repo, p.snapshots, [b.path.name for b in p.blobs]) for p in plan.repos] == [
        ("org/model", [repo.folder / "snapshots" / commit(1)], [etag(b"old weights")])
    ]
    assert (plan.bytes, bytes_on_disk(cache)) == (len(b"old weights"), before)  # nothing done yet

    done = gc.execute(plan)
    assert (done.freed_bytes, done.problems) == (plan.bytes, [])
    assert bytes_on_disk(cache) == before - plan.bytes
    assert repo.commits == {commit(2)}
    assert contents(repo.folder / "snapshots" / commit(2)) == NEW
    assert by_the_client(cache).warnings == []
    assert planned(cache).is_empty


def test_what_any_ref_points_to_stays(cache, repo):
    repo.ref("refs/pr/7", 1)
    assert planned(cache).repos == []


def test_a_repo_without_refs_keeps_its_newest(cache):
    repo = Repo.make(cache, "org/model")
    for n, age in ((3, 50), (1, 10), (2, 90)):
        os.utime(repo.snapshot(n, OLD), (0, time.time() - age))
    collected(cache)
    assert repo.commits == {commit(1)}


def test_where_main_is_not_here_the_newest_stays_beside_what_other_refs_name(cache, repo):
    repo.ref("main", 9)
    repo.ref("v1", 1)
    os.utime(repo.folder / "snapshots" / commit(1), (0, 0))
    assert planned(cache).repos == []


@pytest.mark.parametrize("force", [False, True])
def test_a_snapshot_with_a_file_the_others_lack_stays_unless_forced(cache, repo, force):
    (repo.folder / "snapshots" / commit(2) / "tokenizer.json").unlink()
    plan = planned(cache, force=force)
    if force:
        assert plan.repos[0].snapshots and notes(plan) == ""
        assert {b.path.name for b in plan.repos[0].blobs} == {etag(b"old weights"), etag(b"same")}
    else:
        assert plan.is_empty
        assert "only it has tokenizer.json" in notes(plan)


def test_a_file_that_is_only_a_broken_link_is_lacking(cache, repo):
    (repo.folder / "blobs" / etag(b"new weights!")).unlink()
    assert "only it has model.safetensors" in notes(planned(cache))


def test_a_download_that_was_cut_off_is_not_superseded(cache, repo):
    partial = repo.snapshot(3, {"config.json": b"{}", "tokenizer.json": b"newer"})
    os.utime(partial, (time.time() + 60, time.time() + 60))
    (repo.folder / "blobs" / "abc.incomplete").write_bytes(b"part")
    plan = planned(cache)
    assert [p.name for p in plan.repos[0].snapshots] == [commit(1)]
    assert "download was cut off (`mlxone get org/model` goes on" in notes(plan)
    assert len(planned(cache, force=True).repos[0].snapshots) == 2


def test_blobs_nobody_uses_go(cache, repo):
    repo.blob(b"left behind")
    assert etag(b"left behind") in {b.path.name for b in planned(cache).repos[0].blobs}


def test_nothing_younger_than_an_hour_goes(cache, repo):
    repo.blob(b"just arrived")
    os.utime(repo.folder / "blobs" / etag(b"just arrived"), (0, 0))  # as a copy with its old date would be
    plan = gc.plan(cache)
    assert plan.is_empty
    assert notes(plan).count("younger than an hour") == 2
    assert gc.plan(cache, now=time.time() + gc.YOUNG - 60).is_empty


def test_parts_of_downloads_and_locks_stay(cache, repo):
    names = ("a.incomplete", "b.1234.incomplete", "c.incomplete.x", "d" + partial.SUFFIX, "d" + partial.NOTES)
    parts = [repo.folder / "blobs" / name for name in names]
    lock = cache / ".locks" / "models--org--model" / "x.lock"
    lock.parent.mkdir(parents=True)
    for path in (*parts, lock):
        path.write_bytes(b"1")
    collected(cache)
    assert all(path.exists() for path in (*parts, lock))


def test_datasets_and_spaces_stay(cache):
    for kind in ("datasets", "spaces"):
        other = Repo.make(cache, "org/data", kind)
        other.snapshot(1, OLD)
        other.snapshot(2, NEW, ref="main")
    assert planned(cache).repos == []


def test_what_a_link_leads_to_outside_stays(cache, repo, tmp_path):
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "file").write_text("mine")
    old = repo.folder / "snapshots" / commit(1)
    (old / "notes.txt").symlink_to(outside / "file")
    (repo.folder / "blobs" / "moved-by-hand").symlink_to(outside / "file")
    collected(cache, force=True)
    assert not old.exists()
    assert (outside / "file").read_text() == "mine"
    assert (repo.folder / "blobs" / "moved-by-hand").is_symlink()


@pytest.mark.parametrize("part", ["", "blobs", "snapshots", "refs"])
def test_a_repo_that_is_partly_elsewhere_is_left_alone(cache, repo, tmp_path, part):
    moved = repo.folder / part
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    plan = planned(cache)
    assert plan.is_empty and "is a link to another place" in notes(plan)


def test_a_link_to_a_folder_in_a_snapshot_that_stays_protects_every_blob(cache, repo, tmp_path):
    (repo.folder / "snapshots" / commit(2) / "more").symlink_to(tmp_path)
    plan = planned(cache)
    assert [p.name for p in plan.repos[0].snapshots] == [commit(1)]
    assert plan.repos[0].blobs == [] and "link to a folder" in notes(plan)


def test_a_ref_that_is_just_being_written_does_not_matter(cache, repo):
    (repo.folder / "refs" / ".main-123").write_text("")
    assert len(planned(cache).repos[0].snapshots) == 1


def test_of_a_tree_that_could_not_be_read_every_blob_is_used(repo):
    tree = cache_tree.read(repo.folder)
    tree.snapshots.clear()
    assert gc.unused(tree.blobs, tree) == tree.blobs
    tree.opaque = "an error half-way"
    assert gc.unused(tree.blobs, tree) == []


@pytest.mark.parametrize("text", ["", "ref: somewhere", "\xff\xfe"])
def test_a_ref_that_names_no_commit_leaves_the_repo_alone(cache, repo, text):
    (repo.folder / "refs" / "v2").write_text(text, encoding="latin-1")
    plan = planned(cache)
    assert plan.is_empty and "does not name a commit" in notes(plan)


def test_files_without_links_are_counted_too(cache):
    """Where links cannot be made the client keeps the files themselves in the snapshots."""
    repo = Repo.make(cache, "org/model")
    for n, size in ((1, 100), (2, 70)):
        folder = repo.folder / "snapshots" / commit(n)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * size)
    repo.ref("main", 2)
    plan = planned(cache)
    assert plan.bytes == 100 == gc.execute(plan).freed_bytes


def test_hard_links_count_with_the_last_of_them(cache, repo, tmp_path):
    weights = repo.folder / "blobs" / etag(b"old weights")
    os.link(weights, tmp_path / "kept elsewhere")
    assert planned(cache).bytes == 0
    twin = Repo.make(cache, "org/twin")
    os.link(weights, twin.folder / "blobs" / "orphan")
    (tmp_path / "kept elsewhere").unlink()
    plan = planned(cache)
    assert [p.bytes for p in plan.repos] == [0, len(b"old weights")]
    assert gc.execute(plan).freed_bytes == plan.bytes


def test_a_hard_linked_copy_in_a_snapshot_that_stays_keeps_its_blob(cache, repo):
    """Some tools replace a link by the file itself; the blob then costs nothing."""
    link = repo.folder / "snapshots" / commit(2) / "model.safetensors"
    link.unlink()
    os.link(repo.folder / "blobs" / etag(b"new weights!"), link)
    collected(cache)
    assert etag(b"new weights!") in repo.blobs


def test_a_link_laid_between_plan_and_deletion_saves_the_blob(cache, repo):
    plan = planned(cache)
    repo.snapshot(3, {"model.safetensors": b"old weights"}, ref="main")
    gc.execute(plan)
    assert repo.commits == {commit(2), commit(3)}
    assert contents(repo.folder / "snapshots" / commit(3)) == {"model.safetensors": b"old weights"}


def test_a_ref_set_between_plan_and_deletion_saves_the_snapshot(cache, repo):
    plan = planned(cache)
    repo.ref("main", 1)
    assert gc.execute(plan).freed_bytes == 0
    assert contents(repo.folder / "snapshots" / commit(1)) == OLD


def test_a_blob_that_came_anew_is_not_the_one_that_was_planned(cache, repo):
    orphan = repo.blob(b"orphan")
    plan = planned(cache)
    os.replace(repo.blob(b"again", "other"), orphan)
    gc.execute(plan)
    assert orphan.read_bytes() == b"again"


def test_a_snapshot_in_use_stays(cache, repo):
    old = repo.folder / "snapshots" / commit(1)
    with in_use.in_use(old, what="serve"):
        assert "in use by `mlxone serve`" in notes(planned(cache))
    plan = planned(cache)
    with in_use.in_use(old):
        gc.execute(plan)
        assert contents(old) == OLD


def test_what_cannot_be_deleted_is_named_and_the_rest_goes_on(cache, repo, monkeypatch):
    """By hand and not by permissions, which do not hold for root."""
    second = Repo.make(cache, "org/other")
    stuck = repo.folder / "blobs" / etag(b"old weights")
    second.snapshot(1, NEW, ref="main")
    second.blob(b"orphan")
    unlink = Path.unlink

    def refuse(path, **options):
        if path == stuck:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuse)
    done = collected(cache)
    assert done.problems == [f"{stuck}: Permission denied"]
    assert done.freed_bytes == len(b"orphan")


def test_a_snapshot_that_cannot_be_moved_keeps_its_blobs(cache, repo, monkeypatch):
    def refuse(path, target):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    done = collected(cache)
    assert done.problems == [f"{repo.folder / 'snapshots' / commit(1)}: Read-only file system"]
    assert contents(repo.folder / "snapshots" / commit(1)) == OLD


def test_leftover_trash_goes(cache, repo, tmp_path):
    collection = tmp_path / "models"
    for parent in (cache, repo.folder, collection):
        left = parent / ".mlxone-trash-0123"
        left.mkdir(parents=True)
        (left / "weights").write_bytes(b"12345")
    plan = planned(cache, elsewhere=[collection])
    assert plan.bytes == 15 + len(b"old weights")
    assert gc.execute(plan).freed_bytes == plan.bytes
    assert list(tmp_path.rglob(".mlxone-trash-*")) == []


def test_no_cache_is_nothing_to_do(tmp_path):
    assert planned(tmp_path / "none").is_empty


def test_a_cache_behind_a_link_is_the_cache(cache, repo, tmp_path):
    (tmp_path / "link").symlink_to(cache)
    assert collected(tmp_path / "link").freed_bytes == len(b"old weights")


def test_two_at_once_do_each_thing_once(cache, repo):
    first, second = planned(cache), planned(cache)
    freed = gc.execute(first).freed_bytes
    done = gc.execute(second)
    assert (freed, done.freed_bytes, done.problems) == (len(b"old weights"), 0, [])


# While a download is at work.


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("since", ["plan", "deletion"])
def test_what_a_download_fills_stays_even_when_forced(cache, repo, force, since):
    new = repo.snapshot(3, {"model-00001-of-00002.safetensors": b"first half"})
    repo.blob(b"not yet linked")
    os.utime(new, (0, 0))
    before = bytes_on_disk(cache)
    with in_use.in_use(new, what="get") if since == "plan" else contextlib.nullcontext():
        plan = planned(cache, force=force)
    if since == "plan":
        assert plan.is_empty and "left alone: in use by `mlxone get`" in notes(plan)
    with in_use.in_use(new, what="get"):
        done = gc.execute(plan)
    assert (done.freed_bytes, bytes_on_disk(cache)) == (0, before)
    assert repo.commits == {commit(1), commit(2), commit(3)}


@pytest.mark.parametrize("force", [False, True])
def test_so_does_what_another_program_downloads_into(cache, repo, force):
    lock = cache / ".locks" / repo.folder.name / "etag.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        plan = planned(cache, force=force)
        assert plan.is_empty and "a download is at work on it" in notes(plan)
    plan = planned(cache, force=force)
    with WeakFileLock(lock):
        assert gc.execute(plan).freed_bytes == 0
    assert repo.commits == {commit(1), commit(2)}
    assert collected(cache, force=force).freed_bytes == len(b"old weights")  # a lock that nobody holds


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": b"newer"},
        {"config.json": b"{}"},
        {"config.json": b"{}", "model.safetensors": b"", "model.safetensors.index.json": b"[]"},
    ],
)
def test_what_is_not_whole_was_cut_off_whatever_the_times_say(cache, repo, files):
    (repo.folder / "snapshots" / commit(2) / "model.safetensors.index.json").write_text("{}")
    partial = repo.snapshot(9, files)
    os.utime(partial, (0, 0))
    os.utime(repo.folder / "snapshots" / commit(2), (time.time() + 60, time.time() + 60))
    (repo.folder / "blobs" / "abc.incomplete").write_bytes(b"part")
    plan = planned(cache)
    assert repo.folder / "snapshots" / commit(9) not in plan.repos[0].snapshots
    assert repo.folder / "snapshots" / commit(1) in plan.repos[0].snapshots
    assert f"snapshot {commit(9)[:12]} stays: its download was cut off" in notes(plan)
    assert partial in planned(cache, force=True).repos[0].snapshots
