"""Which names answer, and that a name out of a request is never a place on the disk."""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxone.core.errors import (
    AmbiguousModel,
    DamagedModel,
    MlxoneError,
    ModelNotFound,
    UnsupportedModel,
    UsageError,
)
from mlxone.hub import places
from mlxone.service.catalogue import Catalogue
from tests.hub import shelves
from tests.service.rig import write_folder


@pytest.fixture
def folders(tmp_path: Path, folder: Path) -> Path:
    """Three models below one folder, and one beside it that nobody offers."""
    for name in ("models/alpha-1B", "models/alpha-7B", "models/beta-1B", "secret"):
        shutil.copytree(folder, tmp_path / name)
    return tmp_path / "models"


def test_one_named_model_answers_to_everything(folders: Path):
    catalogue = Catalogue([folders / "alpha-1B"])
    assert catalogue.at_hand("x") is None  # not before the first look
    assert [offer.id for offer in catalogue.look()] == ["alpha-1B"]
    for name in (None, "", "gpt-4o", "../../etc", "beta-1B", "x" * 10_000):
        offer = catalogue.at_hand(name)
        assert offer is not None and offer.id == "alpha-1B" and offer == catalogue.find(name)


def test_several_named_models_have_to_be_told_apart(folders: Path):
    catalogue = Catalogue([folders / "alpha-1B", folders / "alpha-7B", folders / "beta-1B"])
    catalogue.look()
    for name, meant in [
        (None, "alpha-1B"),
        ("alpha-7B", "alpha-7B"),
        ("7b", "alpha-7B"),
        ("beta", "beta-1B"),
    ]:
        assert catalogue.find(name).id == meant
    with pytest.raises(AmbiguousModel, match="matches 2 models: alpha-1B, alpha-7B") as ambiguous:
        catalogue.find("alpha")
    assert ambiguous.value.param == "model"
    with pytest.raises(ModelNotFound, match="no model here is called 'gamma'") as missing:
        catalogue.find("gamma")
    assert missing.value.param == "model" and "alpha-1B" in missing.value.hint
    with pytest.raises(ModelNotFound, match="…"):
        catalogue.find("y" * 10_000)


def test_named_ones_are_looked_at_when_first_needed(folders: Path):
    assert Catalogue([folders / "alpha-1B", folders / "beta-1B"]).find("beta").id == "beta-1B"
    assert Catalogue([folders / "alpha-1B", folders / "alpha-1B"]).look()[1:] == []


def test_a_named_one_that_is_not_there_and_two_of_one_name(folders: Path):
    with pytest.raises(ModelNotFound, match="nowhere"):
        Catalogue([folders / "nowhere"]).look()
    twin = write_folder(folders.parent / "elsewhere" / "beta-1B")
    with pytest.raises(UsageError, match="two models would be called beta-1B"):
        Catalogue([folders / "beta-1B", twin]).look()


def test_a_link_that_points_elsewhere_later_changes_no_offer(folders: Path):
    link = folders.parent / "current"
    link.symlink_to(folders / "alpha-1B")
    offer = Catalogue([link]).look()[0]
    assert (
        offer.key == os.path.realpath(folders / "alpha-1B") == Catalogue([folders / "alpha-1B"]).look()[0].key
    )
    link.unlink()
    link.symlink_to(folders / "beta-1B")
    assert offer.key == os.path.realpath(folders / "alpha-1B")
    assert offer.key == Catalogue([folders / "alpha-1B"]).look()[0].key
    link.unlink()
    link.symlink_to(folders / "beta-1B")
    assert offer.key == os.path.realpath(folders / "alpha-1B")


def test_words_name_a_model_of_the_folders(folders: Path):
    assert [offer.id for offer in Catalogue(["beta"], [folders]).look()] == ["beta-1B"]


def test_without_names_whatever_the_registry_knows(folders: Path, monkeypatch: pytest.MonkeyPatch):
    catalogue = Catalogue(folders=[folders])
    assert [offer.id for offer in catalogue.look()] == ["alpha-1B", "alpha-7B", "beta-1B"]
    assert catalogue.find("beta").path == folders / "beta-1B"
    assert catalogue.at_hand("beta-1B") is None  # that takes a look
    write_folder(folders / "gamma-2B")
    assert catalogue.find("gamma-2B").id == "gamma-2B"
    assert len(catalogue.offers) == 3 and len(catalogue.look()) == 4
    with pytest.raises(AmbiguousModel) as ambiguous:
        catalogue.find("alpha")
    assert ambiguous.value.param == "model"
    monkeypatch.setenv("MLXONE_MODEL", str(folders.parent / "secret"))  # the operator may name a path
    assert catalogue.find(None).id == "secret"
    assert catalogue.at_hand(None) == catalogue.find("")


def test_a_card_says_what_is_known(folders: Path):
    (offer, *_) = Catalogue(folders=[folders]).look()
    card = offer.card
    assert (card.id, card.context_length, card.loaded, card.problem) == ("alpha-1B", 512, False, None)
    assert card.size_bytes > 100_000 and card.created == int(os.stat(offer.path).st_mtime)


def test_what_cannot_answer_says_why(folders: Path):
    shelves.model(folders / "strange", model_type="strange")
    shelves.model(folders / "torn")
    (folders / "torn" / "model.safetensors").write_bytes(b"torn")
    catalogue = Catalogue(folders=[folders])
    problems = {offer.id: offer.card.problem for offer in catalogue.look()}
    assert problems["alpha-1B"] is None and problems["strange"] and problems["torn"]
    with pytest.raises(UnsupportedModel, match="strange"):
        catalogue.find("strange")
    with pytest.raises((DamagedModel, ModelNotFound), match="torn"):
        catalogue.find("torn")


def test_commits_count_and_branches_do_not(folders: Path):
    write_folder_in_cache("org/Tiny-1B", "c" * 40)
    catalogue = Catalogue()
    for name in ("org/Tiny-1B", "tiny-1b", "org/Tiny-1B@" + "c" * 12):
        assert catalogue.find(name).id == "org/Tiny-1B"
    for name in ("org/Tiny-1B@main", "org/Tiny-1B@../../../refs/main", "org/Tiny-1B@" + "d" * 12):
        with pytest.raises(ModelNotFound):
            catalogue.find(name)


def test_the_default_is_called_as_it_is_listed(monkeypatch: pytest.MonkeyPatch):
    write_folder_in_cache("org/Tiny-1B", "c" * 40)
    snapshot = shelves.repo_folder("org/Tiny-1B") / "snapshots" / ("c" * 40)
    monkeypatch.setenv("MLXONE_MODEL", str(snapshot))
    catalogue = Catalogue()
    assert catalogue.find(None).id == "org/Tiny-1B" == catalogue.look()[0].id
    assert catalogue.find(None) == catalogue.find("tiny-1b")


def write_folder_in_cache(repo: str, commit: str) -> None:
    snapshot = shelves.repo_folder(repo) / "snapshots" / commit
    snapshot.mkdir(parents=True)
    write_folder(snapshot)
    refs = shelves.repo_folder(repo) / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)


# Never a path --------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every path that anything asks the disk about."""
    seen: list[str] = []

    def watch(module: object, name: str) -> None:
        real = getattr(module, name)

        def watching(path: object, *args: object, **more: object) -> object:
            if isinstance(path, str | os.PathLike):
                seen.append(os.fspath(path))
            return real(path, *args, **more)

        monkeypatch.setattr(module, name, watching)

    for name in ("stat", "open", "scandir", "listdir", "lstat", "readlink"):
        watch(os, name)
    watch(builtins, "open")
    yield seen
    monkeypatch.undo()


NAMES = ["../../etc", "/etc/passwd", "/etc", "~", "~root", ".", "..", "./", "alpha-1B/../../secret",
         "alpha-1B@../../secret", "x@rev", "file:///etc/passwd", "C:\\", "a.gguf", "/dev/zero", "secret\0",
         "alpha-1B/config.json", "models/alpha-1B", "\ud800", "{}", "*"]  # fmt: skip


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("name", [*NAMES, "THE SECRET", "./secret", "secret"])
def test_a_name_of_a_request_is_never_a_path(
    folders: Path, name: str, count: int, opened: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folders.parent)
    secret = folders.parent / "secret"
    name = str(secret) if name == "THE SECRET" else name
    named = [folders / "alpha-1B", folders / "alpha-7B"][:count]
    catalogue = Catalogue(named, folders=[folders])
    catalogue.look()
    opened.clear()
    with pytest.raises(ModelNotFound) as missing:
        catalogue.find(name)
    assert missing.value.status == 404
    cache, home = str(places.home()), os.path.expanduser("~")
    strangers = [p for p in opened if not p.startswith((str(folders), cache, home))]
    assert [p for p in strangers if "secret" in p or "etc" in p or name in p] == []


def test_the_watch_itself_sees_a_look(opened: list[str], tmp_path: Path):
    with pytest.raises(MlxoneError):
        Catalogue([tmp_path / "secret"]).look()
    assert any(path.endswith("secret") for path in opened)
