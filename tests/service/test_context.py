"""Many requests and one thread: what is answered, shared and refused, and how it begins and ends."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.core.errors import (
    MlxoneError,
    Overloaded,
    ShuttingDown,
    UsageError,
)
from mlxone.core.words import Asked, ChatRequest, Failed, Finished, Message
from mlxone.service import embedded, learning
from mlxone.service.context import Context
from mlxone.service.figures import StateFigures
from mlxone.service.options import Options
from tests.engine import tiny
from tests.service.clients import (
    PROMPT,
    Gate,
    asked,
    last,
    passes,
    quiet,
    read,
    run,
    serving,
    tokens,
)
from tests.service.rig import SCRIPT, Stage, recited

pytestmark = pytest.mark.usefixtures("own_limits")


# Answers -------------------------------------------------------------------------------------


def test_an_answer(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            async with await context.answer(asked()) as answers:
                assert answers.model == "tiny"
                events = (await read(answers))[0]
            assert tokens(events) == recited(SCRIPT, 20, 5)
            stats = last(events).stats
            assert (stats.prompt_tokens, stats.generated_tokens, stats.finish_reason) == (20, 5, "length")

    run(test)


def test_messages_go_through_the_template(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            request = ChatRequest(messages=(Message("user", "Hi"),), max_tokens=3)
            events = (await read(await context.answer(Asked("gpt-4o", (request,)))))[0]
            assert last(events).stats.prompt_tokens == 20

    run(test)


def test_real_weights_say_what_the_library_says(folder: Path):
    """With its own sampling for each, several at once, and a prompt cache between them."""
    model = mlxone.load(folder)
    wishes: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 1.0, "seed": 7, "top_k": 40}]

    async def test() -> None:
        async with serving(folder) as context:
            for wish in wishes * 2:
                found = await read(await context.answer(asked(tokens=12, choices=2, wishes=wish)))
                for choice in range(2):
                    options = wish | ({"seed": wish["seed"] + choice} if "seed" in wish else {})
                    alone = mlxone.generate(model, PROMPT, max_tokens=12, eos_token_ids=(), **options)
                    assert tokens(found[choice]) == [token.token for token in alone]
            assert context.figures().totals.cached_tokens == 7 * 19

    run(test)


def test_prompts_and_choices_are_numbered_prompt_by_prompt(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            requests = tuple(ChatRequest(ids=PROMPT[:n], max_tokens=2, eos_token_ids=()) for n in (4, 9))
            found = await read(await context.answer(Asked(None, requests, 3)))
            assert [last(found[n]).stats.prompt_tokens for n in range(6)] == [4, 4, 4, 9, 9, 9]
            assert [tokens(found[n]) for n in (2, 3)] == [recited(SCRIPT, n, 2) for n in (4, 9)]

    run(test)


@pytest.mark.parametrize("cache", [0, 10**9])
def test_the_choices_of_a_prompt_read_it_once(stage: Stage, cache: int):
    async def test() -> None:
        async with serving(stage.model(), prompt_cache_bytes=cache) as context:
            found = await read(await context.answer(asked(choices=4)))
            assert all(tokens(found[n]) == recited(SCRIPT, 20, 5) for n in range(4))
            assert [n for n in passes(stage) if n > 1] == [19]
            assert [last(found[n]).stats.cached_tokens for n in range(4)] == [0, 19, 19, 19]
            await quiet(context)
            kept = context.figures().prompt_cache.bytes
            assert (kept > 0) == (cache > 0)
            assert len(context._shelf.ledger._stores) == 1  # a store of its own has gone with the request
            await read(await context.answer(asked()))
            assert [n for n in passes(stage) if n > 1] == ([19] if cache else [19, 19])

    run(test)


def test_the_next_turn_reads_what_is_new(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            first = (await read(await context.answer(asked())))[0]
            longer = [*PROMPT, *tokens(first), 7, 8, 9]
            stats = last((await read(await context.answer(asked(longer))))[0]).stats
            assert (stats.prompt_tokens, stats.cached_tokens) == (28, 24)
            figures = context.figures()
            assert (figures.totals.prompt_tokens, figures.totals.cached_tokens) == (48, 24)
            assert figures.prompt_cache.hits == 1 and figures.prompt_cache.hit_tokens == 24

    run(test)


def test_first_come_first_served(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            await read(await context.answer(asked()))
            gate = Gate(stage)
            order: list[int] = []

            async def one(number: int) -> None:
                answers = await context.answer(asked([number, *PROMPT]))
                async with answers:
                    async for _, event in answers:
                        if isinstance(event, Finished):
                            order.append(number)

            tasks = []
            for number in range(5, 11):
                tasks.append(asyncio.create_task(one(number)))
                while context.figures().waiting + context.figures().running < len(tasks):
                    await asyncio.sleep(0.001)
            await gate.wait()
            figures = context.figures()
            assert (figures.running, figures.waiting) == (1, 5)
            gate.open()
            await asyncio.gather(*tasks)
            assert order == list(range(5, 11))

    run(test)


# Too much ------------------------------------------------------------------------------------


def test_a_queue_has_an_end(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), queue=2) as context:
            await read(await context.answer(asked([5])))
            gate = Gate(stage)
            first = await context.answer(asked())
            await gate.wait()
            others = [await context.answer(asked([n, 6])) for n in (5, 6)]
            with pytest.raises(Overloaded, match="2 answers are waiting and 2 may") as refused:
                await context.answer(asked())
            assert refused.value.status == 429 and 1.0 <= refused.value.retry_after <= 60.0
            gate.open()
            for answers in (first, *others):
                await read(answers)
            await read(await context.answer(asked()))
            assert context.figures().totals.refused == 1

    run(test)


def test_all_answers_of_a_request_have_to_find_room(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), queue=3) as context:
            await read(await context.answer(asked(choices=3)))  # nothing else is there
            await quiet(context)
            gate = Gate(stage)
            first = await context.answer(asked())
            await gate.wait()
            second = await context.answer(asked(choices=2))
            with pytest.raises(Overloaded, match="2 answers are waiting and 3 may: .* for 2 more"):
                await context.answer(asked(choices=2))
            third = await context.answer(asked())
            gate.open()
            for answers in (first, second, third):
                await read(answers)

    run(test)


@pytest.mark.parametrize("queue", [0, 3])
def test_what_can_never_find_room_is_not_told_to_come_again(stage: Stage, queue: int):
    async def test() -> None:
        async with serving(stage.model(), queue=queue) as context:
            with pytest.raises(UsageError, match="4 answers are asked for at once") as refused:
                await context.answer(Asked(None, asked().requests * 2, 2))
            assert refused.value.param == "n"

    run(test)


def test_without_a_queue_one_at_a_time(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), queue=0) as context:
            await read(await context.answer(asked([5])))
            gate = Gate(stage)
            first = await context.answer(asked())
            await gate.wait()
            with pytest.raises(Overloaded):
                await context.answer(asked())
            gate.open()
            await read(first)
            await quiet(context)
            await read(await context.answer(asked()))

    run(test)


@pytest.mark.parametrize(
    ("wanted", "error", "param"),
    [
        (asked(()), UsageError, None),
        (asked(range(400), tokens=None, wishes={"temperature": 99}), UsageError, "temperature"),
        (asked([5] * 600), MlxoneError, None),
        (Asked(None, ()), UsageError, None),
        (replace(asked(), choices=0), UsageError, None),
    ],
)
def test_what_is_refused_costs_no_work(
    stage: Stage, wanted: Asked, error: type[MlxoneError], param: str | None
):
    async def test() -> None:
        async with serving(stage.model()) as context:
            with pytest.raises(error) as refused:
                await context.answer(wanted)
            assert refused.value.status == 400 and refused.value.param == param
            figures = context.figures()
            assert (figures.totals.refused, figures.waiting, figures.totals.answers) == (1, 0, 0)
            assert passes(stage) == []

    run(test)


def test_a_named_model_is_warm_when_its_server_is_ready(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            assert passes(stage) == []  # and the warm-up before them
            figures = context.figures()
            assert (figures.totals.answers, figures.prompt_cache.entries) == (0, 0)

    run(test)


@pytest.mark.parametrize(("config", "counts"), [(tiny.PLAIN, (2, 0)), (tiny.SLIDING, (1, 1))])
def test_how_its_layers_remember(stage: Stage, config: dict[str, Any], counts: tuple[int, int]):
    async def test() -> None:
        async with serving(stage.model(config=config)) as context:
            assert context.figures().states == StateFigures(*counts, "f32")

    run(test)


def test_before_its_first_answer_nobody_knows_of_what_states_are(stage: Stage):
    stage.model()

    async def test() -> None:
        context = Context(folders=[stage.folder])
        assert context.figures().states == StateFigures()
        await context.tokenize("tiny", "Hi")
        assert context.figures().states == StateFigures(2)
        await read(await context.answer(replace(asked(), model="tiny")))
        assert context.figures().states == StateFigures(2, element="f32")
        await context.close()

    run(test)


def test_what_fails_in_a_warm_up_is_not_the_servers_end(stage: Stage, caplog: pytest.LogCaptureFixture):
    def broken(layer: int) -> None:
        raise RuntimeError("no kernel")

    folder = stage.model()
    stage.dress = lambda model: setattr(model.decoder, "before_layer", broken)

    async def test() -> None:
        async with serving(folder) as context:
            assert "could not be warmed up" in caplog.text and "no kernel" in caplog.text
            stage.decoders["tiny"].before_layer = lambda layer: None
            assert tokens((await read(await context.answer(asked())))[0])

    run(test)


# Words, numbers, beginnings and ends -----------------------------------------------------------


def test_words_and_tokens(stage: Stage):
    async def test() -> None:
        async with serving(stage.model(), ctx_size=100, sampling={"top_k": 7}) as context:
            ids = await context.tokenize(None, "Hi there")
            assert await context.detokenize("any", ids) == "Hi there"
            assert "".join(await context.token_texts(None, ids)) == "Hi there"
            assert (await context.tokenize(None, "Hi", add_special=True))[-2:] == ids[:2]
            for wrong in ([320], [-1], [True]):
                with pytest.raises(UsageError) as refused:
                    await context.detokenize(None, wrong)
                assert refused.value.param == "tokens"
            props = await context.props()
            assert (props.model, props.context_length) == ("tiny", 100)
            assert (props.bos_token, props.eos_token) == ("<s>", "</s>")
            assert "{% for m in messages %}" in props.chat_template
            assert (props.sampling["temperature"], props.sampling["top_k"]) == (0.7, 7)

    run(test)


def test_making_one_costs_nothing(stage: Stage):
    before = threading.active_count()
    context = Context([stage.folder / "nowhere"])
    assert threading.active_count() == before and context.models() == []
    assert context.figures().loaded == () and context.figures().owner == "embedded"
    run(lambda: context.close())


@pytest.mark.parametrize(
    ("options", "named_"),
    [
        ({"ctx_size": 513}, "ctx_size"),
        ({"sampling": {"temperature": 9}}, "temperature"),
        ({"sampling": {"tempo": 1}}, "tempo"),
        ({"prefill_step": 0}, "prefill_step"),
        ({"queue": -1}, "queue"),
        ({"memory_budget": -1.0}, "memory_budget"),
    ],
)
def test_an_operators_mistake_is_named_at_the_start(stage: Stage, options: dict[str, Any], named_: str):
    folder = stage.model()

    async def test() -> None:
        context = Context([folder], options=Options(**options))
        with pytest.raises(UsageError, match=named_):
            await context.start()
        await context.close()

    run(test)


def test_load_context_is_ready_at_once(stage: Stage):
    async def test() -> None:
        await read(await context.answer(asked()))
        await context.close()

    before = threading.active_count()
    context = embedded.load_context(stage.model(), memory_budget=4)
    assert context.figures().loaded == ("tiny",)
    asyncio.run(test())
    assert threading.active_count() == before


def test_closing_lets_what_runs_finish(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            await read(await context.answer(asked([5])))
            gate = Gate(stage)
            answers = await context.answer(asked())
            await gate.wait()
            closing = asyncio.create_task(context.close(grace=30))
            await asyncio.sleep(0)
            with pytest.raises(ShuttingDown) as refused:
                await context.answer(asked())
            assert refused.value.status == 503
            gate.open()
            assert last((await read(answers))[0])
            await closing
            await context.close()

    run(test)


def test_closing_cuts_off_what_does_not(stage: Stage):
    async def test() -> None:
        async with serving(stage.model()) as context:
            await read(await context.answer(asked([5])))
            gate = Gate(stage)
            accepted = [await context.answer(asked([n, *PROMPT], choices=2)) for n in range(5, 8)]
            await gate.wait()
            closing = [asyncio.create_task(context.close()) for _ in range(2)]
            for answers in accepted:
                found = await read(answers)
                assert sorted(found) == [0, 1]
                for events in found.values():
                    assert isinstance(events[-1], Failed) and isinstance(events[-1].error, ShuttingDown)
            gate.open()
            await asyncio.gather(*closing)
            totals = context.figures().totals
            assert (totals.answers, totals.failed, totals.cancelled) == (1, 6, 0)
            assert context.figures().loaded == ()

    run(test)


def test_what_is_learned_is_learned_aside(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    noted: list[tuple[str, int, str]] = []

    def note(model: Any, stats: Any) -> None:
        noted.append((model.name, stats.generated_tokens, threading.current_thread().name))
        assert not hasattr(model.decoder, "blocks")  # whoever learns holds no weights

    monkeypatch.setattr(learning, "note", note)

    async def test() -> None:
        async with serving(stage.model()) as context:
            await read(await context.answer(asked()))
            await read(await context.answer(asked()))  # it began with what the first had read

    run(test)
    assert [(name, count) for name, count, _ in noted] == [("tiny", 5)]
    assert noted[0][2].startswith("mlxone-words")
