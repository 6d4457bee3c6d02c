"""`uninstall --all`: our own files by name, and nothing beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxone.cli.history import History
from mlxone.fitting.store import Store
from mlxone.hub import in_use, own_state, places
from mlxone.hub.registry import Registry
from mlxone.hub.starter import write_manifest
from tests.hub.unpacked import folder, unpacked


def prepared_starter() -> Path:
    folder = places.starter_folder()
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    write_manifest(folder, "org/starter")
    return folder


def put(name: str) -> Path:
    path = places.home() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    return path


def everything() -> set[str]:
    return {path.relative_to(places.home()).as_posix() for path in places.home().rglob("*")}


def test_a_home_that_is_not_there():
    assert own_state.look() == own_state.State()


def test_all_that_we_write_there_goes():
    Registry().scan()
    store = Store(places.home() / "learned.sqlite")
    store.put("key", 1)
    store.close()
    for damaged in ("learned.sqlite.damaged", "registry.sqlite-wal", "history.123"):
        put(damaged)
    History(places.home() / "history").add("hello")
    prepared_starter()
    put("running/1-ab.json")
    found = own_state.look()
    assert (found.staying, found.strangers) == ([], 0)
    done = own_state.remove(found)
    assert (done.problems, everything()) == ([], set())
    assert done.freed_bytes == found.size_bytes > 0


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "history.txt", "registry.sqlite.bak", "starter/notes.txt", "models/m"],
)
def test_what_we_did_not_make_stays_and_is_counted(name: str):
    stays = put(name)
    put("history")
    found = own_state.look()
    assert found.strangers == 1
    own_state.remove(found)
    assert {path for path in everything() if (places.home() / path).is_file()} == {name}
    assert stays.read_text() == "mine"


def test_what_was_unpacked_is_not_ours_to_judge():
    unpacked()
    assert own_state.look() == own_state.State()
    own_state.remove(own_state.look())
    assert folder().exists()


@pytest.mark.parametrize("name", ["history", "starter", "running", "registry.sqlite"])
def test_a_link_stays_and_is_named(tmp_path: Path, name: str):
    real = tmp_path / "real"
    if name in ("starter", "running"):
        real.mkdir()
        (real / "starter.json").write_text(json.dumps({"files": {"starter.json": 1}}))
    else:
        real.write_text("kept")
    places.home().mkdir()
    (places.home() / name).symlink_to(real)
    found = own_state.look()
    assert [(one.path.name, one.why) for one in found.staying] == [
        (name, "a link, and links are not followed")
    ]
    own_state.remove(found)
    assert (places.home() / name).is_symlink() and real.exists()


def test_names_in_the_starters_list_lead_nowhere_else(tmp_path: Path):
    victim = put("notes.txt")
    listing = places.starter_folder() / "starter.json"
    listing.parent.mkdir()
    listing.write_text(json.dumps({"files": {"../notes.txt": 4, str(victim): 4}}))
    own_state.remove(own_state.look())
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": [[]]}', "{}", "\udcff"])
def test_a_list_that_cannot_be_read_lists_nothing(content: str):
    folder = places.starter_folder()
    folder.mkdir(parents=True)
    (folder / "starter.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (folder / "config.json").write_text("{}")
    own_state.remove(own_state.look())
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_what_a_running_mlxone_uses_stays(tmp_path: Path):
    starter = prepared_starter()
    put("running/1-ab.json")
    with in_use.in_use(starter, what="serve"):
        found = own_state.look()
        assert [one.in_use for one in found.staying] == [True, True]
        assert all("in use by `mlxone serve`" in one.why for one in found.staying)
        own_state.remove(found)
        assert in_use.using(starter)
        assert (starter / "config.json").is_file()
