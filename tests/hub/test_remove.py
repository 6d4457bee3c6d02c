"""What goes with a model and what does not, from each kind of place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import in_use, places, remove
from mlxone.hub.entry import Entry
from tests.hub.caches import Repo, by_the_client, bytes_on_disk, commit, contents

OLD = {"config.json": b"{}", "model.safetensors": b"old weights", "tokenizer.json": b"same"}
NEW = {"config.json": b"{}", "model.safetensors": b"new weights!", "tokenizer.json": b"same"}


def entry(path: Path, repo: str = "org/model", **values) -> Entry:
    return Entry(repo=repo, path=path, source="anything", format="safetensors", size_bytes=0, **values)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture
def repo(cache: Path) -> Repo:
    repo = Repo.make(cache, "org/model")
    repo.snapshot(1, OLD, ref="v1")
    repo.snapshot(2, NEW, ref="main")
    return repo


@pytest.mark.parametrize("name", ["", "model.gguf", "../mlxone_starter"])
def test_what_came_inside_the_program_stays(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "BUNDLED", tmp_path / "link" / "mlxone_starter")
    folder = fill(tmp_path / "program" / "mlxone_starter", "config.json", "model.gguf")
    (tmp_path / "link").symlink_to("program")
    for way in (folder, places.BUNDLED):
        with pytest.raises(UsageError, match="part of the program"):
            remove.removal(entry(way / name))
    beside = fill(tmp_path / "program" / "mlxone_starter-2", "config.json")
    assert remove.removal(entry(beside)).paths == (beside / "config.json",)


def test_a_repo_goes_with_all_its_revisions(cache, repo):
    Repo.make(cache, "org/other").snapshot(1, NEW, ref="main")
    before = bytes_on_disk(cache)
    what = remove.removal(entry(repo.folder / "snapshots" / commit(2)))
    size = what.size_bytes
    done = remove.remove(what)
    assert size == done.freed_bytes == before - bytes_on_disk(cache)
    assert (done.problems, [r.repo_id for r in by_the_client(cache).repos]) == ([], ["org/other"])


def test_a_gguf_file_of_the_cache_goes_with_its_repo(cache):
    repo = Repo.make(cache, "org/model")
    snapshot = repo.snapshot(1, {"deep/a.gguf": b"1"}, ref="main")
    remove.remove(remove.removal(entry(snapshot / "deep" / "a.gguf")))
    assert not repo.folder.exists()


def test_one_revision_goes_with_its_refs_and_what_it_alone_used(cache, repo):
    before = bytes_on_disk(cache)
    what = remove.removal(entry(repo.folder / "snapshots" / commit(2)), one_revision=True)
    assert what.size_bytes == len(b"new weights!")
    done = remove.remove(what)
    assert done.freed_bytes == len(b"new weights!") == before - bytes_on_disk(cache) - len(commit(2))
    assert contents(repo.folder / "snapshots" / commit(1)) == OLD
    assert {path.name for path in (repo.folder / "refs").iterdir()} == {"v1"}
    assert by_the_client(cache).warnings == []


def test_an_only_revision_is_the_repo(cache):
    repo = Repo.make(cache, "org/model")
    snapshot = repo.snapshot(1, OLD, ref="main")
    remove.remove(remove.removal(entry(snapshot), one_revision=True))
    assert not repo.folder.exists()


def test_of_a_repo_that_cannot_be_read_in_full_no_single_revision_goes(cache, repo, tmp_path):
    (repo.folder / "refs").rename(tmp_path / "refs")
    (repo.folder / "refs").symlink_to(tmp_path / "refs")
    with pytest.raises(StorageError, match="cannot be taken apart"):
        remove.removal(entry(repo.folder / "snapshots" / commit(1)), one_revision=True)


def test_of_a_folder_only_the_models_own_files_go(tmp_path):
    folder = fill(tmp_path / "model", *OLD, "README.md", "additional_chat_templates/a.jinja", "notes.txt")
    fill(folder, "train.py", "src/config.json", ".cache/huggingface/download/x")
    what = remove.removal(entry(folder))
    assert [path.name for path in what.stays] == ["notes.txt", "src", "train.py"]
    size, before = what.size_bytes, bytes_on_disk(folder)
    assert remove.remove(what).freed_bytes == size == before - bytes_on_disk(folder)
    assert tree(folder) == {"notes.txt", "train.py", "src/config.json"}


def test_a_folder_that_is_empty_then_goes_too(tmp_path):
    folder = fill(tmp_path / "org" / "model", *OLD)
    remove.remove(remove.removal(entry(folder)))
    assert list((tmp_path / "org").iterdir()) == []


def test_a_collections_own_folder_stays(tmp_path):
    folder = fill(tmp_path / "models", *OLD)
    what = remove.removal(entry(folder), roots=[folder])
    remove.remove(what)
    assert list(folder.iterdir()) == []


def test_another_model_inside_stays(tmp_path):
    folder = fill(tmp_path / "model", *OLD, "1_Draft/config.json", "1_Draft/model.safetensors")
    remove.remove(remove.removal(entry(folder), beside=[entry(folder), entry(folder / "1_Draft")]))
    assert tree(folder) == {"1_Draft/config.json", "1_Draft/model.safetensors"}


def test_a_gguf_file_goes_alone_while_others_are_there(tmp_path):
    folder = fill(tmp_path / "model", "a-Q4.gguf", "a-Q8.gguf", "mmproj-a.gguf", "README.md")
    others = [entry(folder / "a-Q4.gguf"), entry(folder / "a-Q8.gguf")]
    remove.remove(remove.removal(others[0], beside=others))
    assert tree(folder) == {"a-Q8.gguf", "mmproj-a.gguf", "README.md"}
    remove.remove(remove.removal(others[1], beside=others[1:]))
    assert not folder.exists()


def test_a_gguf_file_in_a_collections_folder_takes_nothing_with_it(tmp_path):
    folder = fill(tmp_path / "models", "a.gguf", "README.md", "mmproj.gguf")
    remove.remove(remove.removal(entry(folder / "a.gguf"), roots=[folder]))
    assert tree(folder) == {"README.md", "mmproj.gguf"}


def test_all_parts_of_a_gguf_go(tmp_path):
    parts = [f"big-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    folder = fill(tmp_path / "m", *parts, "big-00001-of-00002.gguf")
    other = entry(folder / "big-00001-of-00002.gguf")
    remove.remove(remove.removal(entry(folder / parts[0]), beside=[other]))
    assert tree(folder) == {"big-00001-of-00002.gguf"}


@pytest.mark.parametrize("inside", [False, True])
def test_a_link_is_not_followed(tmp_path, inside):
    real = fill(tmp_path / "real", *OLD)
    folder = tmp_path / "models" / "model"
    folder.mkdir(parents=True)
    if inside:
        for name in OLD:
            (folder / name).symlink_to(real / name)
        assert remove.remove(remove.removal(entry(folder))).freed_bytes == 0
        assert not folder.exists()
    else:
        folder.rmdir()
        folder.symlink_to(real)
        with pytest.raises(StorageError, match="is a link to"):
            remove.removal(entry(folder))
    assert tree(real) == set(OLD)


def test_what_is_in_use_stays(tmp_path):
    folder = fill(tmp_path / "model", *OLD)
    what = remove.removal(entry(folder))
    with in_use.in_use(folder, what="serve"), pytest.raises(StorageError, match=r"in use by `mlxone serve`"):
        remove.remove(what)
    assert tree(folder) == set(OLD)


@pytest.mark.parametrize("place", ["cache", "folder"])
def test_cut_off_it_leaves_nothing_that_looks_like_a_model(cache, repo, tmp_path, place, monkeypatch):
    """The deletion itself stops at the first file: what a kill there leaves."""
    folder = fill(tmp_path / "models" / "model", *OLD)
    path = repo.folder / "snapshots" / commit(2) if place == "cache" else folder
    monkeypatch.setattr(Path, "unlink", _die)
    with pytest.raises(KeyboardInterrupt):
        remove.remove(remove.removal(entry(path)))
    assert not (path / "config.json").exists()
    assert not (path / "model.safetensors").exists()
    assert list(path.rglob("*.safetensors")) != [] or place == "cache"


def _die(path: Path, **_) -> Path:
    raise KeyboardInterrupt


def test_what_makes_it_a_model_goes_first(tmp_path, monkeypatch):
    folder = fill(tmp_path / "model", "model.safetensors", "README.md", "config.json")
    rename, count = Path.rename, iter([True, False])
    monkeypatch.setattr(Path, "rename", lambda path, to: rename(path, to) if next(count) else _die(path))
    with pytest.raises(KeyboardInterrupt):
        remove.remove(remove.removal(entry(folder)))
    assert not (folder / "config.json").exists() and (folder / "model.safetensors").exists()


def test_a_link_to_a_folder_goes_and_the_folder_stays(repo, tmp_path):
    other = fill(tmp_path / "other", "precious")
    snapshot = repo.folder / "snapshots" / commit(2)
    (snapshot / "more").symlink_to(other)
    done = remove.remove(remove.removal(entry(snapshot)))
    assert (done.problems, repo.folder.exists(), tree(other)) == ([], False, {"precious"})


def test_what_cannot_be_deleted_is_named(tmp_path, monkeypatch):
    folder = fill(tmp_path / "model", *OLD)
    rename = Path.rename

    def refuse(path, target):
        if path.name == "tokenizer.json":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    done = remove.remove(remove.removal(entry(folder)))
    assert done.problems == [f"{folder / 'tokenizer.json'}: Permission denied"]
    assert tree(folder) == {"tokenizer.json"}


def test_a_hard_linked_file_frees_nothing(tmp_path):
    folder = fill(tmp_path / "model", "config.json", "model.safetensors")
    os.link(folder / "model.safetensors", tmp_path / "copy")
    what = remove.removal(entry(folder))
    assert what.size_bytes == len("config.json") == remove.remove(what).freed_bytes


# One of several models of a repo.


def quants(cache: Path) -> tuple[Repo, list[Entry]]:
    repo = Repo.make(cache, "org/q")
    old = {"deep/m-Q4.gguf": b"old four", "m-Q8.gguf": b"eight", "README.md": b"about"}
    new = {"deep/m-Q4.gguf": b"new four", "m-Q8.gguf": b"eight", "README.md": b"about"}
    held = []
    for n, files in ((1, old), (2, new)):
        folder = repo.snapshot(n, files, ref="main")
        for name in ("deep/m-Q4.gguf", "m-Q8.gguf"):
            part = Path(name).stem
            held.append(entry(folder / name, f"org/q/{part}", part=part, revision=commit(n)))
    return repo, held


def test_one_of_several_models_goes_from_every_revision(cache):
    repo, held = quants(cache)
    before = bytes_on_disk(cache)
    what = remove.removal(held[2], beside=held)
    assert set(what.paths) == {held[0].path, held[2].path}
    size = what.size_bytes
    done = remove.remove(what)
    assert size == done.freed_bytes == len(b"old four" + b"new four") == before - bytes_on_disk(cache)
    for n in (1, 2):
        assert contents(repo.folder / "snapshots" / commit(n)) == {
            "m-Q8.gguf": b"eight",
            "README.md": b"about",
        }
    assert by_the_client(cache).warnings == []


def test_or_from_one_revision(cache):
    repo, held = quants(cache)
    done = remove.remove(remove.removal(held[2], one_revision=True, beside=held))
    assert done.freed_bytes == len(b"new four")
    assert "deep/m-Q4.gguf" in contents(repo.folder / "snapshots" / commit(1))
    done = remove.remove(remove.removal(held[3], one_revision=True, beside=held[:2] + held[3:]))
    assert done.freed_bytes == 0  # the other revision has the same


def test_the_last_of_them_takes_the_repo_with_it(cache):
    repo, held = quants(cache)
    remove.remove(remove.removal(held[0], beside=[held[0], held[2]]))
    assert not repo.folder.exists()


def test_one_of_several_in_use_stays(cache):
    repo, held = quants(cache)
    with in_use.in_use(held[0].path), pytest.raises(StorageError, match="in use"):
        remove.remove(remove.removal(held[2], beside=held))
    assert len(repo.blobs) == 4


# A disk that refuses, and somebody else who is quicker.


@pytest.mark.parametrize("one_revision", [False, True])
def test_two_at_once_do_each_thing_once(cache, repo, one_revision):
    path = repo.folder / "snapshots" / commit(2)
    first, second = (remove.removal(entry(path), one_revision=one_revision) for _ in range(2))
    assert remove.remove(first).freed_bytes > 0
    done = remove.remove(second)
    assert (done.freed_bytes, done.problems) == (0, [])


@pytest.mark.parametrize("one_revision", [False, True])
def test_what_cannot_be_moved_stays_as_it_was(cache, repo, monkeypatch, one_revision):
    def refuse(path, target):
        raise OSError(30, "Read-only file system", str(path))

    before = contents(repo.folder / "refs")
    path = repo.folder / "snapshots" / commit(2)
    what = remove.removal(entry(path), one_revision=one_revision)
    monkeypatch.setattr(Path, "rename", refuse)
    done = remove.remove(what)
    assert done.problems == [f"{what.paths[0]}: Read-only file system"]
    assert contents(path) == NEW
    assert contents(repo.folder / "refs") == before


def test_a_folder_nothing_can_be_written_to(tmp_path, monkeypatch):
    folder = fill(tmp_path / "model", *OLD)

    def refuse(path, *args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    [problem] = remove.remove(remove.removal(entry(folder))).problems
    assert problem.endswith("Permission denied")
    assert tree(folder) == set(OLD)
