from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from mlxone.core.errors import (
    HubError,
    MlxoneError,
    ModelNotFound,
    StorageError,
    UnsupportedModel,
    UsageError,
)
from mlxone.hub import download, places
from mlxone.hub.download import Plan, State, fetch, plan
from mlxone.hub.find import find
from mlxone.hub.registry import Registry
from mlxone.hub.repo import LARGEST_CARD
from tests.hub.fake_hub import FakeHub, Refusal, Repo, refuse
from tests.hub.seen import FILES, NAME, NEEDED, WEIGHTS, Seen, contents, in_cache, leftovers


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo(dict(FILES))
    return fake_hub.repos[NAME]


@pytest.mark.parametrize("typed", ["ORG/Model", "Org/model"])
def test_another_case_is_no_other_folder(repo: Repo, typed: str):
    assert fetch(plan(typed)) == fetch(plan(NAME))
    assert [path.name for path in places.hf_cache().glob("models--*")] == ["models--org--model"]


def test_the_plan_is_what_a_text_model_needs_and_its_exact_size(repo: Repo):
    wanted = plan(NAME)
    assert {f.name for f in wanted.files} == NEEDED
    assert wanted.total_bytes == sum(len(FILES[name]) for name in NEEDED)
    assert (wanted.repo, wanted.revision, wanted.commit) == (NAME, "main", "a" * 40)


def test_a_plan_asks_once_and_fetches_nothing(repo: Repo, fake_hub: FakeHub):
    plan(NAME)
    assert fake_hub.log == ["GET /api/models/org/model"]
    assert in_cache() == []


def test_fetching_makes_a_snapshot_that_find_knows(repo: Repo, fake_hub: FakeHub):
    folder = fetch(plan(NAME))
    assert contents(folder) == {name: FILES[name] for name in NEEDED}
    assert find(NAME).path == folder
    assert (folder.parent.parent / "refs" / "main").read_text() == repo.commit
    assert leftovers() == set()
    assert fake_hub.gets()[-1] == "config.json"


def test_progress_counts_every_byte_once(repo: Repo):
    seen = Seen()
    wanted = plan(NAME)
    fetch(wanted, seen)
    assert (seen.history[0], seen.history[-1]) == (0, wanted.total_bytes)
    assert seen.history == sorted(seen.history)
    assert seen.fetched == wanted.total_bytes
    assert {states[-1] for states in seen.states.values()} == {State.DONE}
    assert set(seen.states) == NEEDED


def test_what_is_there_is_not_fetched_again(repo: Repo, fake_hub: FakeHub):
    folder = fetch(plan(NAME))
    fake_hub.log.clear()
    (folder / "merges.txt").unlink()
    seen = Seen()
    fetch(plan(NAME), seen)
    assert fake_hub.gets() == []  # the blob was still there, only its name had gone
    assert (folder / "merges.txt").read_bytes() == FILES["merges.txt"]
    assert (seen.history[0], seen.fetched) == (seen.total, 0)


def test_what_another_revision_brought_is_not_fetched_again(repo: Repo, fake_hub: FakeHub):
    fetch(plan(NAME))
    repo.commit = "d" * 40
    repo.files["merges.txt"] = b"a c"
    fake_hub.log.clear()
    seen = Seen()
    folder = fetch(plan(NAME), seen)
    assert fake_hub.gets() == ["merges.txt"]
    assert contents(folder) == {name: repo.files[name] for name in NEEDED}
    assert seen.fetched == 3


@pytest.mark.parametrize("spoilt", [b"", b"{", b"{}{}{}"])
def test_a_file_that_was_cut_or_grew_is_fetched_again(repo: Repo, fake_hub: FakeHub, spoilt: bytes):
    folder = fetch(plan(NAME))
    fake_hub.log.clear()
    (folder / "tokenizer_config.json").resolve().write_bytes(spoilt)
    assert contents(fetch(plan(NAME))) == {name: FILES[name] for name in NEEDED}
    assert fake_hub.gets() == ["tokenizer_config.json"]


def test_two_names_of_one_content(repo: Repo, fake_hub: FakeHub):
    repo.files["model-00002-of-00002.safetensors"] = WEIGHTS
    folder = fetch(plan(NAME))
    assert contents(folder) == {name: repo.files[name] for name in NEEDED}
    assert len([name for name in fake_hub.gets() if name.startswith("model-0000")]) == 1


def test_a_card_and_what_makes_embeddings_come_too(repo: Repo):
    more = {"1_Pooling/config.json": b"{ }", "qwen.tiktoken": b"t", "spm.model": b"s"}
    repo.files |= more | {"x_Other/config.json": b"{}", "1_Pooling/deep/config.json": b"{}"}
    assert {file.name for file in plan(NAME).files} == NEEDED | more.keys()


def test_no_model_needs_a_card_of_any_size(repo: Repo):
    repo.files["README.md"] = b"#" * (LARGEST_CARD + 1)
    assert {file.name for file in plan(NAME).files} == NEEDED - {"README.md"}
    del repo.files["README.md"]
    assert contents(fetch(plan(NAME))) == {name: FILES[name] for name in NEEDED - {"README.md"}}


def test_the_licence_is_known_after_it(repo: Repo):
    repo.files["README.md"] = b"---\nlicense: mit\n---\n"
    folder = fetch(plan(NAME))
    with Registry() as registry:
        (entry,) = registry.refresh()
    assert (entry.path, entry.license) == (folder, "mit")


def test_an_empty_file(repo: Repo):
    repo.files["merges.txt"] = b""
    assert (fetch(plan(NAME)) / "merges.txt").read_bytes() == b""


# What other tools read.


def test_the_hub_client_reads_what_we_wrote(repo: Repo):
    folder, cache = fetch(plan(NAME)), places.hf_cache()
    for name in NEEDED:
        cached = huggingface_hub.try_to_load_from_cache(NAME, name, cache_dir=cache)
        assert cached == str(folder / name)
        assert huggingface_hub.hf_hub_download(NAME, name, cache_dir=cache, local_files_only=True) == cached
    found = huggingface_hub.scan_cache_dir(cache)
    assert found.warnings == []
    (only,) = found.repos
    assert (only.repo_id, only.nb_files) == (NAME, len(NEEDED))
    assert only.size_on_disk == sum(len(FILES[name]) for name in NEEDED)
    assert {(r.commit_hash, r.refs) for r in only.revisions} == {(repo.commit, frozenset({"main"}))}
    assert Path(huggingface_hub.snapshot_download(NAME, cache_dir=cache, local_files_only=True)) == folder


def test_and_does_not_fetch_it_again(repo: Repo, fake_hub: FakeHub):
    folder = fetch(plan(NAME))
    fake_hub.log.clear()
    there = huggingface_hub.hf_hub_download(
        NAME, "merges.txt", cache_dir=places.hf_cache(), endpoint=fake_hub.url
    )
    assert there == str(folder / "merges.txt")
    assert fake_hub.gets() == []  # it asked for the etag and found the blob of that name


def test_we_read_what_it_wrote(repo: Repo, fake_hub: FakeHub):
    for name in NEEDED:
        huggingface_hub.hf_hub_download(NAME, name, cache_dir=places.hf_cache(), endpoint=fake_hub.url)
    fake_hub.log.clear()
    fetch(plan(NAME))
    assert fake_hub.gets() == []


def test_links_are_relative_so_the_cache_can_move(repo: Repo):
    folder = fetch(plan(NAME))
    for name in NEEDED:
        assert not os.path.isabs(os.readlink(folder / name))


@pytest.mark.parametrize("how", ["refused", "unwanted"])
def test_a_system_without_links(repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, how: str):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if how == "refused":
        monkeypatch.setattr(os, "symlink", refuse)
    else:
        monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    folder = fetch(plan(NAME))
    assert contents(folder) == {name: FILES[name] for name in NEEDED}
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert leftovers() == set()
    fake_hub.log.clear()
    fetch(plan(NAME))
    assert fake_hub.gets() == []


def test_a_link_less_system_leaves_blobs_to_those_that_use_them(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    first = fetch(plan(NAME))
    repo.commit = "d" * 40
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "1")
    second = fetch(plan(NAME))
    assert contents(first) == contents(second)
    assert leftovers() == set()


def test_a_new_commit_moves_main(repo: Repo):
    first = fetch(plan(NAME))
    repo.commit = "d" * 40
    second = fetch(plan(NAME))
    assert first != second
    assert find(NAME).path == second
    assert find(f"{NAME}@{'a' * 40}").path == first


def test_a_revision(repo: Repo, fake_hub: FakeHub):
    repo.revisions = ("main", "v2")
    folder = fetch(plan(NAME, "v2"))
    assert find(f"{NAME}@v2").path == folder
    with pytest.raises(ModelNotFound, match="org/model has no revision 'v3'"):
        plan(NAME, "v3")


@pytest.mark.parametrize("revision", ["../../x", "/etc/x", "a/../b", "", ".", "a\\b"])
def test_a_revision_that_would_be_another_file(repo: Repo, fake_hub: FakeHub, revision: str):
    with pytest.raises(UsageError, match="is not a revision"):
        plan(NAME, revision)
    assert fake_hub.log == []


def test_a_revision_with_folders(repo: Repo):
    repo.revisions = ("main", "refs/pr/1")
    folder = fetch(plan(NAME, "refs/pr/1"))
    assert (folder.parents[1] / "refs" / "refs" / "pr" / "1").read_text() == repo.commit


def test_a_commit_needs_no_ref(repo: Repo):
    folder = fetch(plan(NAME, repo.commit))
    assert not (folder.parent.parent / "refs").exists()


@pytest.mark.parametrize(
    ("gone", "reason"), [("config.json", "no config.json"), ("*.safetensors", "no safetensors")]
)
def test_a_repo_that_is_no_model_for_us(repo: Repo, gone: str, reason: str):
    repo.files = {k: v for k, v in FILES.items() if not Path(k).match(gone)}
    with pytest.raises(UnsupportedModel, match=reason):
        plan(NAME)


# Refusals, at the question and at the file: each one line, with a way out.

REFUSALS: dict[str, tuple[Refusal, type[MlxoneError], str, str]] = {
    "private or missing": (refuse(401, "RepoNotFound"), ModelNotFound, "or is private", "HF_TOKEN"),
    "missing": (refuse(404, "RepoNotFound"), ModelNotFound, "not on the Hub", "check the name"),
    "a bare 404": (refuse(404), ModelNotFound, "is not on the Hub", ""),
    "a bad token": (
        refuse(401, message="Invalid credentials in Authorization header"), HubError, "the token", "HF_TOKEN"
    ),
    "gated": (refuse(403, "GatedRepo"), HubError, "org/model is gated", "accept its terms"),
    "forbidden": (refuse(403), HubError, "may not read org/model", "HF_TOKEN"),
    "disabled": (refuse(403, message="Access to this resource is disabled."), HubError, "org/model", ""),
    "too many requests": (refuse(429), HubError, "too many requests", "wait"),
    "a broken Hub": (refuse(500), HubError, "status 500", "try again later"),
    "an overloaded Hub": (refuse(503), HubError, "status 503", "try again later"),
    "a strange status": (refuse(418), HubError, "status 418", ""),
}  # fmt: skip


@pytest.mark.parametrize(("refusal", "error", "reason", "hint"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("at", ["info", "file"])
def test_a_refusal_is_one_line(
    repo: Repo, at: str, refusal: Refusal, error: type[MlxoneError], reason: str, hint: str
):
    if at == "info":
        repo.info = refusal
    else:
        repo.get["model-00001-of-00002.safetensors"] = refusal
    with pytest.raises(error) as e:
        fetch(plan(NAME))
    assert reason in e.value.message
    assert hint in e.value.hint
    assert "\n" not in str(e.value)
    assert not any(p.name == "config.json" for p in in_cache())


def test_a_missing_repo(fake_hub: FakeHub):
    with pytest.raises(ModelNotFound, match="org/none is not on the Hub, or is private"):
        plan("org/none")


@pytest.mark.parametrize("name", ["a b/c", "a/b/c", "../x", "a--b/..", ""])
def test_what_is_no_repo_id_never_leaves_the_machine(fake_hub: FakeHub, name: str):
    with pytest.raises(UsageError, match="is not a repo id"):
        plan(name)
    assert fake_hub.log == []


def test_a_hub_that_recovers_is_not_given_up(repo: Repo):
    repo.get["config.json"] = refuse(429, times=2)
    assert find(fetch(plan(NAME)).as_posix())


def test_a_file_that_vanished_meanwhile(repo: Repo):
    wanted = plan(NAME)
    del repo.files["merges.txt"]
    with pytest.raises(HubError, match="merges.txt of org/model is gone"):
        fetch(wanted)


def test_nobody_listens(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="http://127.0.0.1:9 cannot be reached"):
        plan(NAME)


def test_offline_mode_is_respected(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # now, and not when the client was imported
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        plan(NAME)
    assert fake_hub.log == []


# The disk.


def test_free_disk_is_checked_before_anything_is_fetched(
    repo: Repo, fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wanted = plan(NAME)
    usage = SimpleNamespace(free=wanted.total_bytes + download.SPARE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="org/model needs 2[0-9] kB and .* to spare, and .* free") as e:
        fetch(wanted)
    assert "HF_HUB_CACHE" in e.value.hint
    with pytest.raises(StorageError) as e:
        fetch(wanted, to=tmp_path / "there")
    assert "--to" in e.value.hint
    assert fake_hub.gets() == []
    usage.free += 1
    fetch(wanted)


@pytest.mark.parametrize(("to", "links", "times"), [(False, True, 1), (False, False, 2), (True, True, 2)])
def test_one_content_under_two_names_takes_as_much_room_as_its_place_needs(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: bool, links: bool, times: int
):
    repo.files = {"config.json": b"{}", "a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS}
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "" if links else "1")
    usage = SimpleNamespace(free=download.SPARE + 2 + times * len(WEIGHTS) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    target = tmp_path / "there" if to else None
    with pytest.raises(StorageError):
        fetch(plan(NAME), to=target)
    usage.free += 1
    seen = Seen()
    assert contents(fetch(plan(NAME), seen, to=target)) == repo.files
    assert seen.fetched == 2 + times * len(WEIGHTS)


def test_a_cache_that_cannot_be_written(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    wanted = plan(NAME)
    with pytest.raises(StorageError, match=str(tmp_path / "file")) as e:
        fetch(wanted)
    assert e.value.hint == "move away what is there in its place"


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "who may write there"),
        (errno.EROFS, "can be written to"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOENT, "try again"),
        (errno.EIO, "check the disk"),
    ],
)
def test_the_way_out_fits_what_the_disk_said(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
):
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code), "/there")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=f"/there: {os.strerror(code)}") as e:
        fetch(plan(NAME))
    assert hint in e.value.hint
    assert ("free some space" in e.value.hint) == (code == errno.ENOSPC)


def test_the_plan_knows_its_folder():
    wanted = Plan("org/m", "main", "e" * 40, ())
    assert wanted.folder == places.hf_cache() / "models--org--m" / "snapshots" / ("e" * 40)
