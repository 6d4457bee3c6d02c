"""`uninstall --all`: our own files by name, and nothing beside them."""

from __future__ import annotations

import json
import os
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
    path.write_text('"mine"')
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
    put("starter/.mlxone-trash-0123456789ab/model.safetensors")
    put("running/1-0123abcd.json")
    found = own_state.look()
    assert (found.staying, found.strangers) == ([], [])
    done = own_state.remove(found)
    assert (done.problems, everything()) == ([], set())
    assert done.freed_bytes == found.size_bytes > 0


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "history.txt", "registry.sqlite.bak", "starter/notes.txt", "models/m"),
        *("starter/.mlxone-trash-mine/m", ".mlxone-trash-0123456789ab/m"),
    ],
)
def test_what_we_did_not_make_stays_and_is_told(name: str):
    stays = put(name)
    put("history")
    found = own_state.look()
    [stranger] = found.strangers
    assert stays.is_relative_to(stranger)
    own_state.remove(found)
    assert {path for path in everything() if (places.home() / path).is_file()} == {name}
    assert stays.read_text() == '"mine"'


@pytest.mark.parametrize("name", ["history", "history.123"])
@pytest.mark.parametrize(
    "content",
    ["ls -l\n", '"hello"\nls\n', '"hello"\n\n"you"\n', '{"a": 1}\n', "12\n", '"torn', "\udcff", "[" * 99_999],
    ids=lambda content: ascii(content)[:16],
)
def test_a_history_in_another_format_is_not_ours(name: str, content: str):
    kept = put(name)
    kept.write_bytes(content.encode("utf-8", "surrogateescape"))
    found = own_state.look()
    assert (found.files, found.strangers) == ([], [kept])
    own_state.remove(found)
    assert kept.exists()


def test_a_history_of_any_text_is_ours_and_an_empty_one():
    history = History(places.home() / "history")
    for text in ("two\nlines\r\x85\u2028", '"quoted"', "\ud800 \0 é", "x"):
        history.add(text)
    (places.home() / "history.7").touch()
    found = own_state.look()
    assert ([path.name for path in found.files], found.strangers) == (["history", "history.7"], [])


def test_a_note_of_another_form_is_not_ours():
    kept = put("running/.12-2024.json")  # with a dot, as `in_use` clears the others away itself
    assert own_state.look().strangers == [kept]


def test_a_home_that_cannot_be_listed_is_told(monkeypatch: pytest.MonkeyPatch):
    kept = put("history")

    def listdir(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        found = own_state.look()
    [unseen] = found.staying
    assert (unseen.path, unseen.failed, unseen.in_use) == (places.home(), True, False)
    assert unseen.why == "it cannot be listed: Permission denied"
    own_state.remove(found)
    assert kept.exists()


def test_a_file_in_place_of_the_home_holds_nothing_of_ours():
    places.home().touch()
    assert own_state.look() == own_state.State()


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
    assert victim.read_text() == '"mine"'


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": [[]]}', "{}", "\udcff"])
def test_a_list_that_cannot_be_read_lists_nothing(content: str):
    folder = places.starter_folder()
    folder.mkdir(parents=True)
    (folder / "starter.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (folder / "config.json").write_text("{}")
    own_state.remove(own_state.look())
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def shared() -> list[str]:
    """What a running mlxone has open, whatever its model is."""
    names = ["history", "learned.sqlite", "registry.sqlite", "registry.sqlite-wal"]
    for name in names:
        put(name)
    return names


def test_what_a_running_mlxone_may_have_open_stays(tmp_path: Path):
    names = shared()
    starter = prepared_starter()
    with in_use.in_use(tmp_path / "model", what="serve"):
        found = own_state.look()
        [note, home] = found.staying
        assert (note.path.parent.name, home.path, home.in_use) == ("running", places.home(), True)
        process = f"in use by `mlxone serve` (process {os.getpid()})"
        assert home.why == f"{', '.join(names)}: {process}: {own_state.END_IT}"
        assert own_state.remove(found).problems == []
        assert {*names, "running"} == {path.name for path in places.home().iterdir()}
        assert not starter.exists()
    own_state.remove(own_state.look())
    assert everything() == set()


def test_also_where_it_is_known_by_its_runtime_alone():
    names = shared()
    [staying] = own_state.look(others_run=True).staying
    assert staying.why == f"{', '.join(names)}: another mlxone runs: {own_state.END_IT}"


def test_nothing_to_keep_is_nothing_in_use():
    assert own_state.look(others_run=True) == own_state.State()


def test_one_that_was_started_after_the_question_keeps_them_too(tmp_path: Path):
    names = shared()
    found = own_state.look()
    with in_use.in_use(tmp_path / "model", what="run"):
        [problem] = own_state.remove(found).problems
    assert problem.startswith(f"{places.home()}: {names[0]}, ") and "`mlxone run`" in problem
    assert set(names) <= everything()


def test_a_starter_and_notes_in_use_stay():
    starter = prepared_starter()
    put("running/1-0123abcd.json")
    with in_use.in_use(starter, what="serve"):
        found = own_state.look()
        assert [one.in_use for one in found.staying] == [True, True]
        assert all("in use by `mlxone serve`" in one.why for one in found.staying)
        own_state.remove(found)
        assert in_use.using(starter)
        assert (starter / "config.json").is_file()
