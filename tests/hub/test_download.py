from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
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
from mlxone.hub.download import Plan, fetch, plan
from mlxone.hub.find import find
from tests.hub.fake_hub import FakeHub, Refusal, Repo, refuse

NAME = "org/model"
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "README.md": b"# A model",
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 600,
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "merges.txt": b"a b",
    "tokenizer.model": b"sp",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "consolidated.safetensors": WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
    "original/params.json": b"{}",
    "onnx/model.safetensors": WEIGHTS,
}
NEEDED = set(FILES) - {
    "README.md",
    "consolidated.safetensors",
    "pytorch_model.bin",
    "original/params.json",
    "onnx/model.safetensors",
}


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo(dict(FILES))
    return fake_hub.repos[NAME]


def in_cache() -> list[Path]:
    """What stands in any snapshot."""
    return [p for p in places.hf_cache().glob("models--*/snapshots/**/*") if not p.is_dir()]


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
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        name: FILES[name] for name in NEEDED
    }
    assert find(NAME).path == folder
    assert (folder.parent.parent / "refs" / "main").read_text() == repo.commit
    assert fake_hub.gets()[0].startswith("model-0000")  # weights first
    assert fake_hub.gets()[-1] == "config.json"


def test_progress_counts_every_byte_once(repo: Repo):
    seen: list[tuple[int, int]] = []
    wanted = plan(NAME)
    fetch(wanted, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, wanted.total_bytes)
    assert seen[-1] == (wanted.total_bytes, wanted.total_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_the_client_counts_twice_is_shown_once():
    seen: list[int] = []
    counter = download._Counter(lambda done, total: seen.append(done), 100, 300)
    file = download.File("a", 50, None)
    counter.start(file)
    bar = counter.bar()(total=50, initial=0)
    for count in (30, 40, -60, 30, 20):
        bar.update(count)
    bar.update_transfer(50)
    counter.finish(file)
    assert seen == [100, 130, 150, 100, 130, 150, 150]


def test_what_is_there_is_not_fetched_again(repo: Repo, fake_hub: FakeHub):
    folder = fetch(plan(NAME))
    fake_hub.log.clear()
    (folder / "merges.txt").unlink()
    seen: list[int] = []
    fetch(plan(NAME), lambda done, total: seen.append(done))
    assert fake_hub.gets() == []  # the blob was still there, only its name had gone
    assert (folder / "merges.txt").read_bytes() == FILES["merges.txt"]
    assert seen[0] == plan(NAME).total_bytes - len(FILES["merges.txt"])


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
    with pytest.raises(HubError, match="a file of org/model is gone"):
        fetch(wanted)


def test_nobody_listens(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="http://127.0.0.1:9 cannot be reached"):
        plan(NAME)


def test_offline_mode_is_respected(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        plan(NAME)
    assert fake_hub.log == []


# Damage on the way.


@pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", "config.json"])
def test_a_line_that_goes_dead_leaves_nothing_half(repo: Repo, file: str):
    repo.cut[file] = len(FILES[file]) // 2
    with pytest.raises(HubError):
        fetch(plan(NAME))
    assert not any(p.name == file for p in in_cache())
    with pytest.raises(ModelNotFound):
        find(NAME)
    repo.cut.clear()
    assert find(str(fetch(plan(NAME)))).path.name == repo.commit


def test_a_body_of_the_right_size_and_the_wrong_bytes(repo: Repo):
    file = "model-00002-of-00002.safetensors"
    repo.sent[file] = bytes(len(WEIGHTS))
    with pytest.raises(HubError, match="arrived damaged"):
        fetch(plan(NAME))
    assert not any(p.name == file for p in in_cache())
    repo.sent.clear()
    folder = fetch(plan(NAME))
    assert (folder / file).read_bytes() == WEIGHTS[::-1]


@pytest.mark.parametrize("length", [len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_a_body_of_the_wrong_size(repo: Repo, length: int):
    file = "model-00001-of-00002.safetensors"
    repo.sent[file] = (WEIGHTS * 2)[:length]
    with pytest.raises(HubError, match="incomplete|damaged"):
        fetch(plan(NAME))
    assert not any(p.name == file for p in in_cache())


def test_ctrl_c_leaves_no_model(repo: Repo):
    def stop(done: int, total: int) -> None:
        if done > len(WEIGHTS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(plan(NAME), stop)
    with pytest.raises(ModelNotFound):
        find(NAME)
    assert list(places.hf_cache().rglob("*.incomplete")) == []


# The disk.


def test_free_disk_is_checked_before_anything_is_fetched(
    repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    wanted = plan(NAME)
    usage = SimpleNamespace(free=wanted.total_bytes + download.SPARE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="org/model needs .* GB free") as e:
        fetch(wanted)
    assert "HF_HUB_CACHE" in e.value.hint
    assert fake_hub.gets() == []
    usage.free += 1
    fetch(wanted)


def test_a_disk_that_fills_up_meanwhile(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, os.strerror(28), "/cache/blob")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(StorageError, match="/cache/blob: No space left"):
        fetch(plan(NAME))


def test_a_cache_that_cannot_be_written(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    wanted = plan(NAME)
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        fetch(wanted)


def test_the_plan_knows_its_folder():
    wanted = Plan("org/m", "main", "e" * 40, ())
    assert wanted.folder == places.hf_cache() / "models--org--m" / "snapshots" / ("e" * 40)
