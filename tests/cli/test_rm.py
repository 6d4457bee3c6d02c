"""`rm`, from the command line to the disk."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

from mlxone.cli import terminal
from mlxone.hub import in_use, places, snapshots
from mlxone.hub.names import SHORT_NAMES
from tests.cli.shelf import cached, quants, refreshed
from tests.hub.caches import by_the_client, commit, contents
from tests.sparse import write_model


@pytest.fixture
def typed(monkeypatch, mlxone):
    def run(*args, answer):
        monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream in (sys.stdin, sys.stderr))
        return mlxone(*args, stdin=answer.encode())

    return run


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
    assert mlxone("rm", "org/part", "--yes").out == "org/part in huggingface: 3 B came free\n"
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


@pytest.mark.parametrize("yes", [["--yes"], []])
@pytest.mark.parametrize("how", ["starter", snapshots.STARTER_REPO, "path", "link"])
def test_the_starter_inside_the_program_stays(mlxone, tmp_path, monkeypatch, how, yes):
    monkeypatch.setattr(places, "BUNDLED", tmp_path / "program" / "mlxone_starter")
    folder = write_model(places.BUNDLED, "gemma-4-e4b")
    (tmp_path / "link").symlink_to(folder)
    before = sorted(folder.iterdir())
    named = {"path": str(folder), "link": str(tmp_path / "link")}.get(how, how)
    result = mlxone("rm", named, *yes)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "mlxone: this starter is part of the program and cannot be deleted by itself "
        "(mlxone-slim is the same program without it)\n"
    )
    assert sorted(folder.iterdir()) == before
    assert mlxone("gc", "--yes", "--force").code == 0
    assert sorted(folder.iterdir()) == before


def test_one_quantization_goes_alone(mlxone):
    repo = quants()
    snapshot = repo.folder / "snapshots" / commit(1)
    result = mlxone("rm", "org/quants/m-Q4_0", "--yes")
    assert (result.code, result.out) == (0, "org/quants/m-Q4_0 in huggingface: 4 B came free\n")
    assert contents(snapshot) == {"m-Q8_0.gguf": b"eight bits"}
    assert len(repo.blobs) == 1
    assert by_the_client(places.hf_cache()).warnings == []


@pytest.mark.parametrize("named", ["org/quants", "ORG/Quants"])
def test_the_id_of_a_repo_of_several_files_means_all_of_it(mlxone, named):
    repo = quants()
    assert mlxone("rm", named, "--yes").code == 0
    assert not repo.folder.exists()


def test_a_folder_of_several_files_outside_the_cache(mlxone, tmp_path):
    folder = tmp_path / "org" / "quants"
    folder.mkdir(parents=True)
    for name in ("m-Q4.gguf", "m-Q8.gguf", "mmproj.gguf", "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert mlxone("rm", "org/quants", "--model-dir", str(tmp_path), "--yes").code == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_workplace_keeps_all_that_is_its_owners(mlxone, tmp_path):
    folder = write_model(tmp_path / "work", "gemma-4-e4b")
    model = {path.name for path in folder.iterdir()}
    own = {"train.json", "package.json", "README.md", "LICENSE", "my_adapters.safetensors"}
    own |= {"processing_data.py", "1_data/x.csv", "2_experiments/config.json", ".gitattributes", "a.model"}
    for name in own:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    result = mlxone("rm", str(folder), "--yes")
    assert result.code == 0
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == own and not left & model


@pytest.mark.parametrize("named", ["gemma4:12b", "GEMMA4:12b", SHORT_NAMES["gemma4:12b"]])
def test_a_first_download_that_was_cut_off_answers_to_every_name_of_it(mlxone, named):
    blobs = snapshots.repo_folder(SHORT_NAMES["gemma4:12b"]) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "x.incomplete").write_bytes(b"123")
    assert mlxone("rm", named, "--yes").out.endswith("in huggingface: 3 B came free\n")
    assert not blobs.parent.exists()


def test_the_disk_is_looked_at_once(mlxone, looks):
    refreshed()
    assert mlxone("rm", "tiny", "--yes").code == 0
    assert looks.count(places.hf_cache()) == 1


def test_a_disk_that_refuses_is_named(mlxone, monkeypatch):
    repo = refreshed()

    def refuse(path, target):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    result = mlxone("rm", "tiny", "--yes")
    assert (result.code, repo.folder.exists()) == (9, True)
    assert f"{repo.folder}: Permission denied" in result.err
    assert "the rest was deleted" not in result.err


def test_an_id_never_means_its_neighbour(mlxone):
    kept = cached("org/Llama-3.2-1B-4bit", "Qwen3.5-4B")
    gone = cached("org/Llama-3.2-1B", "Qwen3.5-4B")
    assert mlxone("rm", "ORG/llama-3.2-1b", "--yes").code == 0
    assert not gone.exists()
    again = mlxone("rm", "org/Llama-3.2-1B", "--yes")
    assert (again.code, kept.exists()) == (3, True)
    assert "org/Llama-3.2-1B-4bit" in again.err
    assert mlxone("rm", "3.2-1B-4bit", "--yes").out.startswith("org/Llama-3.2-1B-4bit in huggingface: ")


def test_a_gguf_file_takes_no_neighbour_along(mlxone, tmp_path):
    folder = write_model(tmp_path / "both", "Qwen3.5-4B")
    (folder / "m-Q4_0.gguf").write_bytes(b"four")
    assert mlxone("rm", str(folder / "m-Q4_0.gguf"), "--yes").code == 0
    left = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors"} <= left and "m-Q4_0.gguf" not in left


def test_a_repo_that_is_being_fetched_stays(mlxone):
    folder = cached("org/busy", "Qwen3.5-4B")
    locks = places.hf_cache() / ".locks" / "models--org--busy"
    locks.mkdir(parents=True)
    with (locks / "abc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = mlxone("rm", "org/busy", "--yes")
        assert (result.code, folder.exists()) == (9, True) and "being downloaded" in result.err
    assert mlxone("rm", "org/busy", "--yes").code == 0


def test_in_a_folder_of_ones_own_a_readme_is_ones_own(mlxone, monkeypatch, tmp_path):
    folder = write_model(tmp_path / "models" / "mine", "Qwen3.5-4B")
    for name in ("README.md", "LICENSE", "modeling_mine.py"):
        (folder / name).write_text("by hand")
    monkeypatch.setenv("MLXONE_MODEL_DIR", str(tmp_path / "models"))
    assert mlxone("rm", "mine", "--yes").code == 0
    assert {path.name for path in folder.iterdir()} == {"README.md", "LICENSE", "modeling_mine.py"}
