"""The store beside the repos, filled and checked by the client whose store it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from huggingface_hub.utils import _shared_blobs as client

from mlxone.hub import gc, remove, shared_blobs
from mlxone.hub.trash import Swept
from tests.hub.caches import Repo, by_the_client, bytes_on_disk, commit, etag

LATER = 2 * 3600.0
WEIGHTS = b"weights" * 100
HASH = etag(WEIGHTS)
REF = len(commit(1))  # the file of a ref takes bytes too


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two repos with the same weights: `one` refreshed to others since, `two` not."""
    cache = tmp_path / "hub"
    cache.mkdir()
    for name in ("org/one", "org/two"):
        repo = Repo.make(cache, name)
        snapshot = repo.snapshot(1, {"model.safetensors": WEIGHTS}, ref="main")
        publish(cache, snapshot / "model.safetensors")
    one = Repo.make(cache, "org/one")
    one.snapshot(2, {"model.safetensors": b"newer"}, ref="main")
    return cache


def publish(cache: Path, file: Path) -> None:
    blob = file.parent / file.readlink()
    assert client.publish_blob_to_shared_store(
        blob_path=str(blob.parent.resolve() / blob.name),
        xet_hash=HASH,
        cache_dir=cache,
        expected_size=len(WEIGHTS),
    )


def store(cache: Path) -> Path:
    return client.shared_blob_path(cache, HASH)


def collected(cache: Path) -> Swept:
    plan = gc.plan(cache, now=time.time() + LATER)
    before = bytes_on_disk(cache)
    done = gc.execute(plan)
    lists = (cache / "blobs").rglob("*.refs")  # the client's own book-keeping goes uncounted
    assert (
        done.freed_bytes == plan.bytes <= before - bytes_on_disk(cache) + sum(p.stat().st_size for p in lists)
    )
    return done


def test_ours_reads_the_store_as_the_client_does(cache):
    assert set(shared_blobs.payloads(cache)) == client.shared_store_blob_paths(cache) == {store(cache)}
    assert len(shared_blobs.users(store(cache), cache)) == 2
    for blob in (cache / "models--org--two" / "blobs").iterdir():
        assert shared_blobs.payload_of(blob, cache) == client.shared_blob_target(blob, cache)


def test_a_file_stays_as_long_as_a_repo_has_it(cache):
    assert collected(cache).freed_bytes == 0
    assert Repo.make(cache, "org/one").blobs == {etag(b"newer")}
    assert store(cache).read_bytes() == WEIGHTS
    assert by_the_client(cache).warnings == []


def test_and_goes_with_the_last(cache):
    Repo.make(cache, "org/two").snapshot(2, {"model.safetensors": b"newer"}, ref="main")
    assert collected(cache).freed_bytes == len(WEIGHTS)
    assert client.shared_store_blob_paths(cache) == set()
    assert by_the_client(cache).warnings == []


@pytest.mark.parametrize("road", ["real", "link"])
def test_links_that_were_laid_by_another_road_count(cache, tmp_path, road):
    """A whole path in a link, and the cache reached by the other of its two."""
    (tmp_path / "link").symlink_to(cache)
    roads = {"real": cache, "link": tmp_path / "link"}
    name = cache / "models--org--two" / "snapshots" / commit(1) / "model.safetensors"
    blob = name.resolve().name
    name.unlink()
    other = roads["link" if road == "real" else "real"]
    name.symlink_to(other / "models--org--two" / "blobs" / blob)
    collected(roads[road])
    assert name.read_bytes() == WEIGHTS


def test_a_file_is_judged_and_deleted_under_the_clients_lock(cache, monkeypatch):
    held = []

    def users(payload, cache):
        try:
            FileLock(f"{payload}.lock").acquire(timeout=0)
        except Timeout:
            held.append(payload)
        return set()

    monkeypatch.setattr(shared_blobs, "users", users)
    shared_blobs.sweep(store(cache), cache)
    assert held == [store(cache)]
    assert not store(cache).exists()


def test_removing_the_repos_one_by_one(cache):
    one, two = (remove.WholeRepo(cache / f"models--org--{name}") for name in ("one", "two"))
    assert (one.size_bytes, two.size_bytes) == (REF + len(b"newer"), REF)
    assert remove.remove(one).freed_bytes == REF + len(b"newer")
    assert two.size_bytes == REF + len(WEIGHTS)
    assert remove.remove(two).freed_bytes == REF + len(WEIGHTS)
    assert not store(cache).exists()


def test_what_a_cut_off_removal_left_in_the_store_goes_later(cache):
    for name in ("one", "two"):
        (cache / f"models--org--{name}").rename(cache / f".mlxone-trash-{name}")
    assert gc.plan(cache).bytes < len(WEIGHTS)  # the file itself is young
    assert collected(cache).freed_bytes == len(WEIGHTS) + len(b"newer") + 2 * REF
    assert not store(cache).exists()


@pytest.mark.parametrize("trouble", ["no list", "no marker", "a later layout"])
def test_of_what_is_not_understood_nothing_goes(cache, trouble):
    Repo.make(cache, "org/two").snapshot(2, {"model.safetensors": b"newer"}, ref="main")
    marker = cache / "blobs" / client.SHARED_BLOBS_MARKER_NAME
    if trouble == "no list":
        client.shared_blob_manifest_path(cache, HASH).unlink()
    elif trouble == "no marker":
        marker.unlink()
    else:
        marker.write_text("2\n")
    collected(cache)
    assert store(cache).read_bytes() == WEIGHTS


def test_a_list_that_leads_out_of_the_cache_is_not_believed(cache, tmp_path):
    (tmp_path / "outside").symlink_to(store(cache))
    listed = client.shared_blob_manifest_path(cache, HASH)
    listed.write_text(f"{tmp_path / 'outside'}\n../outside\n")
    assert shared_blobs.users(store(cache), cache) == set()


def test_commits_of_the_layout_are_the_clients_own(cache):
    assert {r.commit_hash for repo in by_the_client(cache).repos for r in repo.revisions} == {
        commit(1),
        commit(2),
    }
