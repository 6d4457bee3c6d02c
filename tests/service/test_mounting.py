"""Adapters of a server's models: whose they are, where they may come from, and that they fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.core.errors import (
    AdapterMismatch,
    AdapterNotFound,
    ModelOverBudget,
    NotPermitted,
    Overloaded,
    UsageError,
)
from mlxone.core.words import Asked, Failed, Finished
from mlxone.models.decoder import Decoder
from mlxone.service.context import Context
from mlxone.service.options import Options
from tests.engine import tiny
from tests.service.adapter_folders import write_adapter
from tests.service.clients import PROMPT, allow, asked, last, quiet, read, run, serving, tokens
from tests.service.rig import write_folder

pytestmark = pytest.mark.usefixtures("own_limits")


def choosing(adapter: str | None, model: str | None = None, **more: Any) -> Asked:
    return replace(asked(adapter=adapter, **more), model=model)


async def told(context: Context, adapter: str | None = None, model: str | None = None) -> list[int]:
    return tokens((await read(await context.answer(choosing(adapter, model))))[0])


def expected(folder: Path, *adapters: Path) -> list[int]:
    """What the library answers."""
    model = mlxone.load(folder)
    for number, path in enumerate(adapters):
        model.adapters.mount(f"n{number}", path)
    names = [card.id for card in model.adapters.mounted]
    told = mlxone.generate(model, PROMPT, max_tokens=5, eos_token_ids=(), adapters=names)
    return [token.token for token in told]


def test_mounted_chosen_and_unmounted_while_it_serves(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapter_dir=shelf) as context:
            base = await told(context)
            assert base == expected(folder)
            for id in "ab":
                model, card = await context.adapters.mount(id, id)
                assert (model, card.id, card.path, card.rank) == ("tiny", id, id, 4)
            assert await told(context, "a") == expected(folder, shelf / "a") != base
            both = expected(folder, shelf / "a", shelf / "b")
            assert await told(context, "a+b") == both != base
            assert (
                await told(context) == await told(context, "none") == base
            )  # one alone is not the default here
            assert [card.id for _, card in await context.adapters.listing()] == ["a", "b"]
            figures = context.figures()
            assert figures.adapters.mounted == 2 and figures.adapters.bytes > 0
            await context.adapters.unmount("a")
            for wish in ("a", "a+b", "b+x"):
                with pytest.raises(AdapterNotFound):
                    await context.answer(choosing(wish))
            with pytest.raises(UsageError, match="named twice"):
                await context.answer(choosing("b+b"))
            with pytest.raises(AdapterNotFound):
                await context.adapters.unmount("a")
            with pytest.raises(UsageError, match="mounted already"):
                await context.adapters.mount("b", "c")
            assert await told(context, "b") == expected(folder, shelf / "b")
            assert await told(context) == base

    run(test)


def test_one_adapter_of_the_operator_is_the_default_and_of_several_none(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapters={"up": shelf / "a"}) as context:
            assert await told(context) == await told(context, "up") == expected(folder, shelf / "a")
            assert await told(context, "none") == expected(folder)
            assert (await context.adapters.listing())[0][1].path == str(shelf / "a")
        async with serving(folder, adapters={id: str(shelf / id) for id in "ab"}) as context:
            assert await told(context) == expected(folder)
            assert await told(context, "b") == expected(folder, shelf / "b")

    run(test)


def test_the_operators_path_is_told_in_full(
    folder: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "door").symlink_to("shelf")  # shown as it was given, and not where it leads

    async def test() -> None:
        async with serving(folder, adapters={"a": "shelf/a", "b": Path("door/b")}) as context:
            paths = [card.path for _, card in await context.adapters.listing()]
            assert paths == [str(tmp_path / "shelf" / "a"), str(tmp_path / "door" / "b")]

    run(test)


def test_what_the_operator_names_has_to_be_there(folder: Path, tmp_path: Path):
    other = write_folder(tmp_path / "other", {**tiny.PLAIN, "hidden_size": 64})
    write_adapter(tmp_path / "wrong", other)

    async def test() -> None:
        for path, error in ((tmp_path / "wrong", AdapterMismatch), (tmp_path / "none", AdapterNotFound)):
            context = Context([folder], options=Options(adapters={"x": path}))
            with pytest.raises(error):
                await context.start()
            await context.close()

    run(test)


@pytest.mark.parametrize(
    "options",
    [{"adapters": ["a"]}, {"adapters": {"a+b": "x"}}, {"adapters": {"a": 3}}, {"adapter_dir": 3},
     {"adapter_dir": "/nowhere/at/all"}, {"adapter_dir": "x" * 300}, {"adapter_dir": "~nobody-at-all"}],
)  # fmt: skip
def test_options(options: dict[str, Any]):
    with pytest.raises(UsageError):
        Options(**options).check()


def test_who_may_mount(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapters={"a": shelf / "a"}) as context:
            with pytest.raises(NotPermitted, match="may not be mounted"):
                await context.adapters.mount("b", str(shelf / "b"))
            with pytest.raises(NotPermitted, match="may not be unmounted"):
                await context.adapters.unmount("a")
            with pytest.raises(AdapterNotFound):
                await context.adapters.unmount("b")
        async with serving(folder, adapters={"a": shelf / "a"}, allow_manage=True) as context:
            await context.adapters.unmount("a")
            assert await told(context) == expected(folder)

    run(test)


def test_an_answer_goes_on_with_what_is_unmounted_and_its_bytes_count_until_it_ends(
    folder: Path, shelf: Path
):
    async def test() -> None:
        async with serving(folder, adapters={"a": shelf / "a"}) as context:
            (loaded,) = context._shelf.loaded
            size = loaded.admission.mounted_bytes
            whole = tokens((await read(await context.answer(choosing("a", tokens=300))))[0])
            answers = await context.answer(choosing("a", tokens=300))
            number, event = await anext(answers)
            found = [event]
            await context.on_shelf(lambda shelf: loaded.model.adapters.unmount("a"))
            await context.on_shelf(lambda shelf: loaded.weigh())
            async for _, event in answers:
                found.append(event)
            assert number == 0 and tokens(found) == whole[-len(tokens(found)) :] and last(found)
            await quiet(context)
            assert size > 0 == loaded.admission.mounted_bytes

    run(test)


def test_what_a_failed_answer_alone_used_counts_no_longer(
    folder: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*given: Any) -> Any:
        raise RuntimeError("broken")

    async def test() -> None:
        async with serving(folder, adapters={"a": shelf / "a"}) as context:
            (loaded,) = context._shelf.loaded
            answers = await context.answer(choosing("a", tokens=300))
            await anext(answers)
            await context.on_shelf(lambda shelf: loaded.model.adapters.unmount("a"))
            await context.on_shelf(lambda shelf: monkeypatch.setattr(Decoder, "logits", broken))
            assert isinstance([event async for _, event in answers][-1], Failed)
            await quiet(context)
            await context.on_shelf(lambda shelf: context._chores())
            assert loaded.admission.mounted_bytes == 0

    run(test)


def test_who_waited_for_an_adapter_that_is_gone_is_told(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapters={"a": shelf / "a"}) as context:
            first = await context.answer(choosing("none", tokens=300))
            second = await context.answer(choosing("a"))
            await context.on_shelf(lambda held: held.loaded[0].model.adapters.unmount("a"))
            assert isinstance((await read(first))[0][-1], Finished)
            end = (await read(second))[0][-1]
            assert isinstance(end, Failed) and isinstance(end.error, AdapterNotFound)

    run(test)


# Several models --------------------------------------------------------------------------------------


def test_an_adapter_belongs_to_one_model_and_comes_back_with_it(tmp_path: Path, folder: Path, shelf: Path):
    other = write_folder(tmp_path / "other", {**tiny.PLAIN, "hidden_size": 64})
    write_adapter(shelf / "wide", other)

    async def test() -> None:
        options = {"adapters": {"a": shelf / "a"}, "adapter_dir": shelf, "allow_manage": True}
        async with serving(folder, other, **options) as context:
            assert context.has_several
            with pytest.raises(AdapterMismatch, match="does not fit"):
                await context.adapters.mount("wide", "wide")
            with pytest.raises(AdapterMismatch):
                await context.adapters.mount("b", "b", "other")
            assert (await context.adapters.mount("a", "wide", "other"))[
                0
            ] == "other"  # the same id, another model
            assert {(model, card.path) for model, card in await context.adapters.listing()} == {
                ("tiny", str(shelf / "a")), ("other", "wide"),
            }  # fmt: skip
            assert [card.path for _, card in await context.adapters.listing("other")] == ["wide"]
            assert await told(context) == expected(folder, shelf / "a")  # the first model's default
            assert await told(context, None, "other") == expected(other)  # which the other has none of
            assert await told(context, "a", "other") == expected(other, shelf / "wide")
            await context.unload("tiny")
            await context.unload("other")
            assert context.figures().adapters.mounted == 2 and context.figures().loaded == ()
            assert await told(context, "a", "other") == expected(other, shelf / "wide")
            assert await told(context) == expected(folder, shelf / "a")
            await context.unload("other")
            await context.adapters.unmount("a", "other")  # also while its model is away
            with pytest.raises(AdapterNotFound):
                await context.answer(choosing("a", "other"))

    run(test)


def test_kept_prompts_of_all_adapters_go_with_their_model(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapters={"a": shelf / "a"}, allow_manage=True) as context:
            for wish in ("none", "a", "a"):
                await told(context, wish)
            kept = context.figures().prompt_cache
            assert kept.entries >= 2 and kept.hits == 1
            await context.unload("tiny")
            assert context.figures().prompt_cache.bytes == 0

    run(test)


# Memory ----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_numbers(
    folder: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
):
    room = 10**9

    async def test() -> None:
        nonlocal room
        allow(monkeypatch, lambda: room)
        async with serving(folder, adapter_dir=shelf) as context:
            base = await told(context)
            await context.adapters.mount("a", "a")
            (loaded,) = context._shelf.loaded
            size = loaded.model.adapters.mounts.get("a").memory_bytes
            assert loaded.admission.mounted_bytes == size > 0
            assert loaded.weights_bytes - size == loaded.admission.case.facts.parameters * 4
            room = loaded.needs_bytes(256) + size // 2  # the model and one adapter, but not two
            await context.on_shelf(lambda shelf: shelf.ledger.measure_again(0.0))
            with pytest.raises(ModelOverBudget, match="adapter b takes") as refused:
                await context.adapters.mount("b", "b")
            assert refused.value.status == 400 and refused.value.param == "path"
            details = refused.value.details
            assert (
                details["budget_bytes"] == room < details["needed_bytes"] and details["adapter_bytes"] >= size
            )
            assert loaded.admission.mounted_bytes == size and not isinstance(refused.value, Overloaded)
            assert [card.id for _, card in await context.adapters.listing()] == ["a"]
            await context.adapters.unmount("a")
            assert loaded.admission.mounted_bytes == 0
            await context.adapters.mount("b", "b")  # there is room for one
            assert await told(context) == base

    run(test)


# Ids -------------------------------------------------------------------------------------------------


def test_a_bad_id_loads_no_model(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapter_dir=shelf, allow_manage=True) as context:
            await context.unload("tiny")
            for id in ("none", "a+b"):
                with pytest.raises(UsageError, match="cannot be called"):
                    await context.adapters.mount(id, "a")
            assert context.figures().loaded == ()

    run(test)


def test_mounting_at_once_under_one_id(folder: Path, shelf: Path):
    async def test() -> None:
        async with serving(folder, adapter_dir=shelf) as context:
            tries = [context.adapters.mount("x", id) for id in "abc"]
            ends = await asyncio.gather(*tries, return_exceptions=True)
            assert sorted(isinstance(end, UsageError) for end in ends) == [False, True, True]

    run(test)
