"""Adapters on a real model: chosen in any order, taken away in the middle, and the base as if without."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.backend.arrays import mx
from mlxone.core.errors import AdapterMismatch, AdapterNotFound, MlxoneError, UsageError
from mlxone.core.words import ChatRequest, Token
from mlxone.kv.prefixes import PrefixStore
from mlxone.service import admission, room
from mlxone.service.adapters import VIEWS, AdapterManager, Selection
from mlxone.service.answer import Answer
from mlxone.service.memory import Memory, Shared
from tests.engine import tiny
from tests.service.adapter_folders import write_adapter
from tests.service.rig import write_folder

IDS = [5, 9, 200, 17, 3, 42]


@pytest.fixture
def loaded(folder: Path) -> mlxone.Model:
    """With an adapter manager of its own."""
    return mlxone.load(folder)


@pytest.fixture
def manager(loaded: mlxone.Model, folder: Path, tmp_path: Path) -> AdapterManager:
    for seed, id in enumerate("abc"):
        loaded.adapters.mount(id, write_adapter(tmp_path / id, folder, seed=seed + 1))
    return loaded.adapters


def logits(of: Selection | Any, ids: list[int] = IDS) -> Any:
    decoder = of.decoder
    out = decoder.logits(decoder.hidden(mx.array([ids]), decoder.new_state()))
    mx.eval(out)
    return out.tolist()


def said(model: mlxone.Model, adapter: str | None, **more: Any) -> list[int]:
    work = Answer(model, ChatRequest(ids=tuple(IDS), max_tokens=8, eos_token_ids=(), adapter=adapter, **more))
    return [event.token for event in work.events() if isinstance(event, Token)]


def test_each_choice_is_another_model_and_the_base_stays_what_it_was(
    loaded: mlxone.Model, manager: AdapterManager
):
    base = logits(loaded)
    seen = {wish: logits(manager.select(wish)) for wish in ("a", "b", "c", "a+b", "b+c", "a+b+c")}
    assert len({str(each) for each in [base, *seen.values()]}) == len(seen) + 1
    for wish in ("a", "none", "b+c", None, "c", "none", "a+b", "a"):  # any amount of switching
        expected = base if wish in ("none", None) else seen[wish]
        assert logits(manager.select(wish)) == expected
    manager.unmount("b")
    manager.mount("d", manager.mounts.get("a").folder)
    assert logits(loaded) == logits(manager.select()) == base
    assert logits(manager.select("d")) == seen["a"]


def test_the_base_is_the_very_same_decoder(loaded: mlxone.Model, manager: AdapterManager):
    for wish in (None, "none", "", ()):
        assert manager.select(wish) == manager.select(wish) or manager.select(wish).decoder is loaded.decoder
        assert manager.select(wish).key == "" and manager.select(wish).decoder is loaded.decoder
    changed = manager.select("a").decoder
    assert changed is not loaded.decoder and changed.embedding is loaded.decoder.embedding
    base_arrays = {id(array) for array in loaded.decoder.arrays()}
    assert base_arrays <= {id(array) for array in changed.arrays()}  # nothing of the base is there twice


def test_choices_are_made_once(manager: AdapterManager, tmp_path: Path):
    assert manager.select("a+b") is manager.select(["a", "b"])
    assert manager.select("a+b").key != manager.select("b+a").key
    for number in range(VIEWS + 5):
        manager.mount(f"n{number}", shutil.copytree(tmp_path / "a", tmp_path / f"n{number}"))
        manager.select(f"n{number}+b")
    assert len(manager._views) == VIEWS


def test_answers_choose(loaded: mlxone.Model, manager: AdapterManager):
    base, a, both = said(loaded, None), said(loaded, "a"), said(loaded, "a+b")
    assert base != a != both != base
    assert said(loaded, "none") == base
    assert [token.token for token in mlxone.generate(loaded, IDS, max_tokens=8, eos_token_ids=())] == base
    for wish in (["a", "b"], "a+b", ("a", "b")):
        told = mlxone.generate(loaded, IDS, max_tokens=8, eos_token_ids=(), adapters=wish)
        assert [token.token for token in told] == both
    nothings: list[Any] = [None, [], "none", ""]
    for nothing in nothings:
        told = mlxone.generate(loaded, IDS, max_tokens=8, eos_token_ids=(), adapters=nothing)
        assert [token.token for token in told] == base
    for wrong in (["x"], "a+x", ["a", "a"], [3], 3):
        with pytest.raises(MlxoneError):
            mlxone.generate(loaded, IDS, adapters=wrong)  # type: ignore[arg-type]


def test_rows_with_different_adapters_do_not_disturb_each_other(
    loaded: mlxone.Model, manager: AdapterManager
):
    wishes = (None, "a", "b", "a+b")
    alone = [said(loaded, wish) for wish in wishes]
    requests = [
        Answer(loaded, ChatRequest(ids=tuple(IDS), max_tokens=8, eos_token_ids=(), adapter=wish))
        for wish in wishes
    ]
    found: list[list[int]] = [[] for _ in wishes]
    running = {number: request.events() for number, request in enumerate(requests)}
    while running:  # a step of each in turn
        for number, events in list(running.items()):
            event = next(events, None)
            if event is None:
                del running[number]
            elif isinstance(event, Token):
                found[number].append(event.token)
    assert found == alone


def test_what_is_unmounted_while_an_answer_uses_it_lets_that_answer_finish(
    loaded: mlxone.Model, manager: AdapterManager
):
    expected, before = said(loaded, "a"), manager.memory_bytes
    size = manager.mounts.get("a").memory_bytes
    work = Answer(loaded, ChatRequest(ids=tuple(IDS), max_tokens=8, eos_token_ids=(), adapter="a"))
    events = work.events()
    found = [event.token for event in (next(events), next(events)) if isinstance(event, Token)]
    assert manager.unmount("a").id == "a"
    assert manager.memory_bytes == before  # the answer still holds it
    with pytest.raises(AdapterNotFound):
        Answer(loaded, ChatRequest(ids=tuple(IDS), adapter="a"))
    found += [event.token for event in events if isinstance(event, Token)]
    assert found == expected
    del work, events
    gc.collect()
    assert manager.memory_bytes == before - size


def test_prompts_are_kept_by_what_computed_them(
    loaded: mlxone.Model, manager: AdapterManager, folder: Path, tmp_path: Path
):
    store = PrefixStore(10**9)

    def cached(adapter: str | None) -> int:
        memory = Shared(store, "m")
        work = Answer(loaded, ChatRequest(ids=tuple(range(40)), max_tokens=2, adapter=adapter), memory=memory)
        list(work.events())
        return work.cached

    assert [cached(wish) for wish in (None, "none", "a", "a", "b", "a+b", "b+a", "a+b", None)] == [
        0, 39, 0, 39, 0, 0, 0, 39, 39,
    ]  # fmt: skip
    manager.unmount("a")
    manager.mount("a", write_adapter(tmp_path / "other", folder, seed=77))  # another one by the same name
    assert cached("a") == 0
    manager.unmount("a")
    manager.mount("again", tmp_path / "a")  # the same one by another
    assert cached("again") == 39


def test_a_conversation_is_read_anew_when_another_adapter_answers(
    loaded: mlxone.Model, manager: AdapterManager
):
    memory = Memory()

    def cached(adapter: str | None) -> int:
        work = Answer(loaded, ChatRequest(ids=tuple(range(30)), max_tokens=2, adapter=adapter), memory=memory)
        list(work.events())
        return work.cached

    assert [cached(wish) for wish in (None, None, "a", "a", "none", None)] == [0, 29, 0, 29, 0, 29]


# Mounting ----------------------------------------------------------------------------------------


def test_what_is_known_of_a_mount(manager: AdapterManager, tmp_path: Path):
    card = manager.mounted[0]
    size = (tmp_path / "a" / "adapters.safetensors").stat().st_size
    assert (card.id, card.rank, card.scale, card.mounted_layers) == ("a", 4, 8.0, 14)
    assert 0 < card.size_bytes < size and card.path == str(tmp_path / "a")


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_other_kinds_of_adapters(loaded: mlxone.Model, folder: Path, tmp_path: Path, kind: str):
    base = logits(loaded)
    for seed, id in enumerate("ab"):
        loaded.adapters.mount(id, write_adapter(tmp_path / id, folder, kind=kind, seed=seed))
    assert logits(loaded.adapters.select("a")) != logits(loaded.adapters.select("b")) != base
    with pytest.raises(AdapterMismatch, match="a and b cannot work together"):
        loaded.adapters.select("a+b")
    assert logits(loaded) == base


def test_a_dora_is_worked_out_linear_by_linear_within_what_is_promised(tmp_path: Path):
    folder = write_folder(tmp_path / "wide", {**tiny.PLAIN, "hidden_size": 256, "intermediate_size": 2_048})
    model = mlxone.load(folder)
    model.adapters.mount(
        "d", write_adapter(tmp_path / "d", folder, kind="dora", modules=("up_proj", "gate_proj", "down_proj"))
    )
    mount, largest = model.adapters.mounts.get("d"), 256 * 2_048
    assert mount.working_bytes == 16 * largest and model.adapters.memory_bytes > mount.working_bytes
    model.decoder.materialize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model.adapters.select("d")
    assert 2 * largest < mx.get_peak_memory() - before < 8 * largest  # of six, of which each takes so much
    second = model.adapters.read(
        "e", write_adapter(tmp_path / "e", folder, seed=2, kind="dora", modules=("up_proj",))
    )
    held = model.adapters.memory_bytes
    more = model.adapters.more_with(second)
    assert second.mount.working_bytes == mount.working_bytes  # what both need while they compute, once
    model.adapters.add(second)
    assert more == second.mount.memory_bytes == model.adapters.memory_bytes - held
    model.adapters.unmount("d")
    model.adapters.unmount("e")
    del second
    gc.collect()
    assert model.adapters.memory_bytes == 0


def test_a_mount_that_fails_changes_nothing(
    loaded: mlxone.Model, manager: AdapterManager, folder: Path, tmp_path: Path
):
    base, before = logits(loaded), manager.mounted
    other = write_folder(tmp_path / "other", {**tiny.PLAIN, "hidden_size": 48, "intermediate_size": 80})
    wrong = {
        "of another model": write_adapter(tmp_path / "x1", other),
        "first tensor too wide": write_adapter(tmp_path / "x2", folder, widen=1),
        "empty": tmp_path / "x3",
        "no weights": write_adapter(tmp_path / "x4", folder),
    }
    (tmp_path / "x3").mkdir()
    (tmp_path / "x4" / "adapters.safetensors").unlink()
    for name, path in wrong.items():
        with pytest.raises(AdapterMismatch) as caught:
            manager.mount("x", path)
        assert caught.value.status == 400, name
    with pytest.raises(
        AdapterMismatch, match=r"tensor 'model\.layers\.0\.\w+\.\w+\.lora_a' of shape \[33, 4\]"
    ):
        manager.mount("x", wrong["first tensor too wide"])
    with pytest.raises(AdapterNotFound):
        manager.mount("x", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="mounted already"):
        manager.mount("a", tmp_path / "b")
    with pytest.raises(UsageError, match="cannot be called"):
        manager.mount("none", tmp_path / "a")
    with pytest.raises(AdapterNotFound):
        manager.unmount("x")
    assert manager.mounted == before and logits(loaded) == base


def test_files_that_are_written_anew_do_not_change_what_is_mounted(
    loaded: mlxone.Model, manager: AdapterManager, folder: Path, tmp_path: Path
):
    expected = logits(manager.select("a"))
    other = write_adapter(tmp_path / "other", folder, seed=9)
    manager._views.clear()
    # In place, where a lazy reader would see it.
    (tmp_path / "a" / "adapters.safetensors").write_bytes((other / "adapters.safetensors").read_bytes())
    assert logits(manager.select("a")) == expected
    shutil.rmtree(tmp_path / "a")
    assert logits(manager.select("a+b")) != expected == logits(manager.select("a"))


@pytest.mark.parametrize("path", ["~nobody-at-all/a", "x" * 5_000])
def test_a_path_that_cannot_be_one(loaded: mlxone.Model, path: str):
    with pytest.raises(MlxoneError) as caught:
        loaded.adapters.mount("x", path)
    assert caught.value.status in (404, 507) and loaded.adapters.mounted == ()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapters.safetensors"])
def test_a_pipe_among_the_files_is_not_waited_for(
    loaded: mlxone.Model, manager: Any, tmp_path: Path, name: str
):
    (tmp_path / "a" / name).unlink()
    os.mkfifo(tmp_path / "a" / name)
    with pytest.raises(AdapterMismatch):
        manager.mount("x", tmp_path / "a")


def test_adapters_and_model_together_must_fit_this_machine(
    folder: Path, tmp_path: Path, loaded: mlxone.Model, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []
    monkeypatch.setattr(admission, "check_possible", lambda model, beside=0: asked.append(beside))
    place = write_adapter(tmp_path / "a", folder)
    room.mount_all(loaded, {"a": place})
    assert asked == []  # so little fits everywhere
    monkeypatch.setattr(room, "LARGE", (folder / "model.safetensors").stat().st_size)
    room.mount_all(loaded, {"b": place, "c": place})
    assert asked == [2 * (place / "adapters.safetensors").stat().st_size]
    assert [card.id for card in loaded.adapters.mounted] == ["a", "b", "c"]


def test_a_model_that_comes_back_has_its_adapters(
    folder: Path, loaded: mlxone.Model, manager: AdapterManager
):
    expected = {wish: logits(manager.select(wish)) for wish in ("a", "a+c")}
    again = mlxone.load(folder)
    again.take_over(manager.mounts)
    assert again.adapters.mounted == manager.mounted
    assert {wish: logits(again.adapters.select(wish)) for wish in expected} == expected


def test_files_that_changed_while_their_model_was_away_are_not_taken_for_the_old_ones(
    folder: Path, manager: AdapterManager, tmp_path: Path
):
    os.utime(tmp_path / "a" / "adapters.safetensors", ns=(1, 1))
    again = mlxone.load(folder)
    again.take_over(manager.mounts)
    with pytest.raises(AdapterMismatch, match="written anew"):
        again.adapters.select("a")
    assert again.adapters.select("b").key
