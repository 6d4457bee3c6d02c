"""What lies in folders, and what is made of it: layouts, GGUF files, and everything odd."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from mlxone.hub.entry import Entry
from mlxone.hub.registry import Registry
from tests.hub.shelves import model, names, repo, repo_folder, settle
from tests.models.gguf_files import gguf

F32 = 0


def gguf_file(path: Path, *, width: int = 64, template: str = "", first: bool = True, **more: Any) -> Path:
    settings: dict[str, Any] = {
        "general.architecture": ("str", "llama"),
        "general.license": ("str", "mit"),
        "llama.block_count": ("u32", 2),
        "llama.embedding_length": ("u32", width),
        "llama.feed_forward_length": ("u32", 128),
        "llama.attention.head_count": ("u32", 4),
        "llama.context_length": ("u32", 2048),
        "tokenizer.chat_template": ("str", template),
    } | more
    tensors = {
        f"token_embd.weight{'' if first else '2'}": ((10, width), F32, bytes(40 * width)),
        f"norm{path.stem}": ((width,), F32, bytes(4 * width)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf(settings if first else {"split.no": ("u16", 1)}, tensors))
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def found(shelf: Path) -> dict[str, Entry]:
    registry = Registry(folders=[shelf])
    entries = registry.list(all_revisions=True)
    assert registry.notices == []
    return {entry.repo: entry for entry in entries}


# Layouts.


def test_names_come_from_the_last_two_folders(shelf: Path):
    for place in ("NAME", "ORG/NAME", "deep/below/ORG/NAME"):
        model(shelf / place)
    assert names(Registry(folders=[shelf]).list(all_revisions=True)) == ["NAME", "ORG/NAME", "ORG/NAME"]


def test_lm_studio_and_mlx_serve(home: Path):
    model(home / ".lmstudio" / "models" / "pub" / "a")
    model(home / ".cache" / "lm-studio" / "models" / "pub" / "old")
    model(home / ".mlx-serve" / "models" / "one")
    model(home / ".mlx-serve" / "models" / "org" / "two")
    assert [(e.repo, e.source) for e in Registry().list()] == [
        ("one", "mlx-serve"),
        ("org/two", "mlx-serve"),
        ("pub/a", "lmstudio"),
        ("pub/old", "lmstudio"),
    ]


def test_a_cache_of_the_hub_under_another_name(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(shelf))
    repo("org/m", "a" * 40)
    repo("org/m", "b" * 40, main=False)
    monkeypatch.delenv("HF_HUB_CACHE")
    [entry, older] = Registry(folders=[shelf]).list(all_revisions=True)
    assert (entry.name, entry.source, older.name) == ("org/m", "model-dir", "org/m@bbbbbbbbbbbb")
    assert Registry(folders=[shelf]).resolve("org/m@bbbbbbb").path == older.path


def test_the_folder_itself_may_be_a_model(tmp_path: Path):
    place = model(tmp_path / "mine", files={"vision/config.json": "{}", "notes/a.txt": "abc"})
    entry = found(place)["mine"]
    assert entry.size_bytes == sum(f.stat().st_size for f in place.rglob("*") if f.is_file())


def test_what_is_no_model_is_passed_by(shelf: Path):
    model(shelf / "pipeline" / "unet")
    (shelf / "pipeline" / "model_index.json").write_text("{}")
    model(shelf / ".hidden")
    (shelf / "app").mkdir()
    (shelf / "app" / "config.json").write_text('{"name": "a web page"}')
    adapter = model(shelf / "adapter", files={"adapter_config.json": "{}"})
    (adapter / "config.json").unlink()
    model(shelf / "too/deep/for/us/model")
    (shelf / "m.safetensors").mkdir()
    (shelf / "m.gguf").mkdir()
    (shelf / "c" / "config.json").mkdir(parents=True)
    assert found(shelf) == {}


def test_what_was_meant_to_be_one_says_what_is_wrong(shelf: Path):
    (model(shelf / "half") / "model.safetensors").unlink()
    (model(shelf / "torn") / "config.json").write_text("{")
    (model(shelf / "lost") / "config.json").unlink()
    problems = {name: entry.problem for name, entry in found(shelf).items()}
    assert problems["half"] == "incomplete: no safetensors weights are there"
    assert problems["lost"] == "incomplete: config.json is missing"
    assert "not valid JSON" in problems["torn"]
    assert "\n" not in "".join(problems.values())


# GGUF.


def test_a_gguf_file(shelf: Path):
    path = gguf_file(shelf / "org" / "M-GGUF" / "M-Q4.gguf", template="{{ tools }} <think>")
    entry = found(shelf)["org/M-GGUF"]
    assert (entry.path, entry.format, entry.size_bytes) == (path, "gguf", path.stat().st_size)
    assert (entry.license, entry.capabilities) == ("mit", frozenset({"tools", "thinking"}))
    assert (entry.facts.parameters, entry.facts.context_length) == (11 * 64, 2048)
    assert entry.support == "GGUF files are not run directly yet"


def test_several_files_are_several_models(shelf: Path):
    for name in ("Q4", "Q8"):
        gguf_file(shelf / "org" / "m" / f"m-{name}.gguf")
    gguf_file(shelf / "single.gguf")
    model(shelf / "both")
    gguf_file(shelf / "both" / "b.gguf")
    assert sorted(found(shelf)) == ["both", "both/b", "org/m/m-Q4", "org/m/m-Q8", "single"]


def test_parts_are_one_model(shelf: Path):
    parts = [gguf_file(shelf / "m" / f"m-0000{i}-of-00002.gguf", first=i == 1) for i in (1, 2)]
    entry = found(shelf)["m"]
    assert (entry.path, entry.size_bytes) == (parts[0], sum(p.stat().st_size for p in parts))
    assert entry.facts.parameters == 2 * 11 * 64
    assert entry.facts.language_bytes == 4 * entry.facts.parameters
    parts[0].unlink()
    assert found(shelf)["m"].problem == "incomplete: 1 of 2 parts are there"


def test_companions_are_no_models_but_let_one_see(shelf: Path):
    gguf_file(shelf / "m" / "m-Q4.gguf")
    gguf_file(shelf / "m" / "mmproj-m-f16.gguf")
    gguf_file(shelf / "m" / "m.imatrix.gguf")
    assert {name: entry.capabilities for name, entry in found(shelf).items()} == {"m": {"vision"}}


def test_a_damaged_gguf_file(shelf: Path):
    (shelf / "a.gguf").write_bytes(b"GGUF")
    (shelf / "b.gguf").write_bytes(b"")
    assert ["not a GGUF file" in entry.problem for entry in found(shelf).values()] == [True, True]


def test_gguf_files_in_the_cache():
    snapshot = repo_folder("org/m-GGUF") / "snapshots" / ("a" * 40)
    gguf_file(snapshot / "Q4" / "m-Q4-00001-of-00002.gguf")
    gguf_file(snapshot / "Q4" / "m-Q4-00002-of-00002.gguf", first=False)
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    [entry] = Registry().list()
    assert (entry.repo, entry.revision, entry.canonical, entry.problem) == (
        "org/m-GGUF",
        "a" * 40,
        True,
        None,
    )
    assert Registry().resolve("org/m-GGUF@aaaaaaa").path == entry.path
    gguf_file(snapshot / "m-Q8.gguf")
    assert names(Registry().list()) == ["org/m-GGUF/m-Q4", "org/m-GGUF/m-Q8"]


# Odd places.


def test_links_lead_somewhere_or_nowhere(shelf: Path, tmp_path: Path):
    model(tmp_path / "elsewhere" / "org" / "m")
    (shelf / "linked").symlink_to(tmp_path / "elsewhere")
    (shelf / "loop").symlink_to(shelf)
    (shelf / "up").symlink_to(tmp_path)
    (shelf / "nowhere").symlink_to(tmp_path / "none")
    (shelf / "self").symlink_to(shelf / "self")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (shelf / "plain").mkdir()
    (shelf / "again").symlink_to(shelf / "plain")
    model(shelf / "plain" / "n")
    assert names(Registry(folders=[shelf]).list(all_revisions=True)) == ["org/m", "plain/n"]


def test_a_linked_model_is_one(shelf: Path, tmp_path: Path):
    place = model(tmp_path / "real")
    (shelf / "by-link").symlink_to(place)
    entry = found(shelf)["by-link"]
    assert entry.path == shelf / "by-link"
    model(place, max_position_embeddings=99)
    assert found(shelf)["by-link"].facts.context_length == 99


@pytest.mark.parametrize("name", ["日本語", "mo del", "a'b\"c", "100%", "-flag", "[x]*?", "né", "x" * 200])
def test_odd_names(shelf: Path, name: str):
    path = model(shelf / "org" / name)
    registry = Registry(folders=[shelf])
    assert registry.resolve(f"org/{name}").path == path
    assert registry.resolve(str(path)).path == path


def test_names_that_cannot_be_shown_are_passed_by(shelf: Path):
    model(shelf / "line\nbreak")
    model(shelf / "\x1b[31mred")
    os.mkdir(os.fsencode(shelf) + b"/\xff")
    model(shelf / "fine")
    assert sorted(found(shelf)) == ["fine"]


def test_things_that_are_no_files(shelf: Path):
    place = model(shelf / "m")
    (place / "config.json").unlink()
    os.mkfifo(place / "config.json")
    os.mkfifo(shelf / "pipe.gguf")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(shelf / "s.gguf"))
        assert found(shelf)["m"].problem == "incomplete: config.json is missing"


def test_a_folder_that_may_not_be_listed(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    """And may be later, without a sign of it in any time."""
    model(shelf / "m")
    settle(shelf)
    real = os.scandir

    def scandir(folder):
        if folder.rstrip("/").endswith("/m"):
            raise PermissionError(13, "denied", folder)
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        assert found(shelf) == {}
    assert sorted(found(shelf)) == ["m"]


def test_too_many_folders_are_said(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlxone.hub.scan.MOST_FOLDERS", 10)
    for i in range(20):
        (shelf / str(i)).mkdir()
    registry = Registry(folders=[shelf])
    registry.scan()
    assert registry.notices == [f"{shelf} has more than 10 folders: the rest was passed by"]
