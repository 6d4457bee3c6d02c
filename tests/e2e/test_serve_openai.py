"""OpenAI's own client over HTTP: what it sends is honoured, and what it reads has its published shapes.

`_strict_response_validation` makes the client refuse a response that is not of its types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import mlxone
from mlxone.core.words import ChatRequest, Message
from mlxone.service.answer import prompt_ids
from tests.e2e.serving import LONG_CONFIG, PATIENCE, Asks, offer, told, write_endless
from tests.service.rig import write_folder

HELLO: Any = [{"role": "user", "content": "Hello there"}]
NAME = "org/tiny-1b"
OPTIONS: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE}
OPTIONS["_strict_response_validation"] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Hub's cache has it, so that its id holds a slash."""
    made = tmp_path_factory.mktemp("hub") / "models--org--tiny-1b" / "snapshots" / ("c" * 40)
    made.mkdir(parents=True)
    return write_folder(made, LONG_CONFIG)


@pytest.fixture(scope="module")
def model(folder: Path) -> mlxone.Model:
    return mlxone.load(folder)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asks]:
    other = write_folder(tmp_path_factory.mktemp("models") / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder.parents[2]))
        with offer(NAME, other) as running:
            yield running


@pytest.fixture(scope="module", params=["/v1", ""], ids=["v1", "plain"])
def client(request: pytest.FixtureRequest, server: Asks) -> Iterator[openai.OpenAI]:
    with openai_client(server, request.param) as made:
        yield made


def openai_client(server: Asks, prefix: str = "/v1", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + prefix, **(OPTIONS | more))


def ask(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    given = {"model": NAME, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    return client.chat.completions.create(**(given | fields))


def ask_streaming(client: openai.OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    return list(ask(client, stream=True, **fields))  # type: ignore[arg-type]


def say(client: openai.OpenAI, prompt: Any, **fields: Any) -> Completion:
    given = {"model": NAME, "prompt": prompt, "max_tokens": 8, "temperature": 0}
    return client.completions.create(**(given | fields))


def text_of(chunks: Sequence[ChatCompletionChunk], choice: int = 0) -> str:
    found = [c for chunk in chunks for c in chunk.choices if c.index == choice]
    return "".join(c.delta.content or "" for c in found)


def in_process(model: mlxone.Model, prompt: Any = "Hello there", **options: Any) -> tuple[str, mlxone.Stats]:
    generation = mlxone.generate(model, prompt, **({"max_tokens": 8} | options))
    return "".join(token.text for token in generation), generation.stats


# Chat -----------------------------------------------------------------------------------------


def test_a_plain_answer_is_what_the_library_says(client: openai.OpenAI, model: mlxone.Model):
    text, stats = in_process(model)
    answer = ask(client)
    assert answer.object == "chat.completion" and answer.model == NAME and answer.id
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", text)
    assert choice.finish_reason == stats.finish_reason
    assert choice.logprobs is None and choice.message.refusal is None
    assert answer.usage.prompt_tokens == stats.prompt_tokens
    assert answer.usage.completion_tokens == stats.generated_tokens
    assert answer.usage.total_tokens == stats.prompt_tokens + stats.generated_tokens


def test_a_stream_says_the_same(client: openai.OpenAI, model: mlxone.Model):
    text, stats = in_process(model)
    chunks = ask_streaming(client)
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("chat.completion.chunk", NAME)}
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert text_of(chunks) == text
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices]
    assert reasons[-1] == stats.finish_reason and not any(reasons[:-1])
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_with_its_usage(client: openai.OpenAI):
    *chunks, last = ask_streaming(client, stream_options={"include_usage": True})
    assert last.choices == [] and all(chunk.usage is None for chunk in chunks)
    assert last.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"}) == (
        ask(client).usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"})
    )


def test_several_answers_to_one_prompt(client: openai.OpenAI, model: mlxone.Model):
    wishes = {"n": 3, "temperature": 1.0, "seed": 11}
    answer = ask(client, **wishes)
    alone = [in_process(model, temperature=1.0, seed=11 + choice) for choice in range(3)]
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert texts == [text for text, _ in alone] and len(set(texts)) == 3
    assert answer.usage.completion_tokens == sum(stats.generated_tokens for _, stats in alone)
    assert answer.usage.prompt_tokens == ask(client).usage.prompt_tokens
    chunks = ask_streaming(client, **wishes)
    assert [text_of(chunks, choice) for choice in range(3)] == texts
    ends = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert sorted(ends) == [0, 1, 2]


def test_a_seed_makes_an_answer_repeatable(client: openai.OpenAI, model: mlxone.Model):
    def drawn(seed: int) -> str:
        return ask(client, temperature=1.0, seed=seed, max_tokens=24).choices[0].message.content

    assert drawn(5) == drawn(5) == in_process(model, temperature=1.0, seed=5, max_tokens=24)[0]
    assert drawn(5) != drawn(6)


@pytest.mark.parametrize("streams", [False, True])
def test_stop_strings(client: openai.OpenAI, model: mlxone.Model, streams: bool):
    text = in_process(model, max_tokens=24)[0]
    end = next(at for at in range(4, len(text)) if text.index(text[at]) == at)
    stop = ["never said", text[end]]
    if streams:
        chunks = ask_streaming(client, stop=stop, max_tokens=24)
        assert text_of(chunks) == text[:end]
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        [choice] = ask(client, stop=stop, max_tokens=24).choices
        assert (choice.message.content, choice.finish_reason) == (text[:end], "stop")


def test_max_completion_tokens(client: openai.OpenAI):
    answer = ask(client, max_tokens=None, max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def test_logprobs_are_those_of_the_library(client: openai.OpenAI, model: mlxone.Model):
    expected = list(mlxone.generate(model, "Hello there", max_tokens=8, logprobs=2))
    told = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(told) == len(expected) == 8
    for said, token in zip(told, expected, strict=True):
        assert said.logprob == pytest.approx(token.logprob, abs=1e-6)
        assert [top.logprob for top in said.top_logprobs] == pytest.approx(
            [top.logprob for top in token.top_logprobs], abs=1e-6
        )
        assert said.bytes is None or bytes(said.bytes).decode() == said.token
    streamed = ask_streaming(client, logprobs=True, top_logprobs=2)
    pieces = [c.logprobs.content for chunk in streamed for c in chunk.choices if c.logprobs]
    assert [one for piece in pieces for one in piece] == told


def test_logit_bias_decides(client: openai.OpenAI, model: mlxone.Model):
    wanted = model.tokenizer.encode("x")[0]
    answer = ask(client, logit_bias={str(wanted): 100}, max_tokens=5)
    assert answer.choices[0].message.content == "xxxxx"


def test_parts_and_all_that_is_passed_over(client: openai.OpenAI):
    """What this client may send to OpenAI and means nothing here changes nothing either."""
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": t} for t in ("Hello ", "there")]}]
    more = {"user": "me", "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True}
    more |= {"service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "k"}
    answer = ask(client, messages=parts, **more)
    assert answer.choices[0].message.content == ask(client).choices[0].message.content


@pytest.mark.parametrize("words", ["Hello there", "日本 🙂 é"])
def test_the_second_turn_is_not_read_again(server: Asks, model: mlxone.Model, words: str):
    with openai_client(server) as client:
        first: list[Any] = [{"role": "user", "content": f"{words}, a conversation of its own"}]
        said = ask(client, messages=first)
        turn = {"role": "assistant", "content": said.choices[0].message.content}
        second = [*first, turn, {"role": "user", "content": "And then?"}]
        answer = ask(client, messages=second)
        messages = tuple(Message(m["role"], m["content"]) for m in second)
        assert answer.usage.prompt_tokens == len(prompt_ids(model, ChatRequest(messages=messages)))
        # All of the first prompt, up to where this template begins the model's turn.
        begun = len(model.tokenizer.encode("assistant:"))
        assert answer.usage.prompt_tokens_details.cached_tokens == said.usage.prompt_tokens - begun
        cold = "".join(token.text for token in mlxone.generate(model, messages, max_tokens=8))
        assert answer.choices[0].message.content == cold


# Completions ----------------------------------------------------------------------------------


def test_a_text_and_its_ids(client: openai.OpenAI, model: mlxone.Model):
    ids = model.tokenizer.encode("Hello", add_special=True)
    text, stats = in_process(model, ids)
    for prompt in ("Hello", ids):
        answer = say(client, prompt)
        assert answer.object == "text_completion" and answer.model == NAME
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, stats.finish_reason)
        assert answer.usage.prompt_tokens == stats.prompt_tokens


@pytest.mark.parametrize("of_ids", [False, True])
def test_several_prompts(client: openai.OpenAI, model: mlxone.Model, of_ids: bool):
    prompts = ["Hello", "Goodbye", "日本"]
    asked: Any = [model.tokenizer.encode(p, add_special=True) for p in prompts] if of_ids else prompts
    answer = say(client, asked, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    alone = [say(client, prompt).choices[0].text for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [text for text in alone for _ in range(2)]


def test_a_completion_streams_echoes_and_says_what_it_thought_likely(client: openai.OpenAI):
    plain = say(client, "Hello").choices[0].text
    assert say(client, "Hello", echo=True).choices[0].text == "Hello" + plain
    # OpenAI's type wants a reason in every chunk; OpenAI itself, and so we, say null until the last.
    lenient = client.with_options(_extra_kwargs={"_strict_response_validation": False})
    chunks: list[Any] = list(say(lenient, "Hello", stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == plain
    told = say(client, "Hello", logprobs=3).choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == 8
    assert all(1 <= len(top) <= 3 for top in told.top_logprobs)


# Models and errors ----------------------------------------------------------------------------


def test_models(client: openai.OpenAI):
    listed = list(client.models.list())
    assert {one.id for one in listed} == {NAME, "other"}
    found = client.models.retrieve(NAME)
    assert isinstance(found, Model) and (found.id, found.owned_by, found.object) == (NAME, "org", "model")
    assert found in listed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"logit_bias": {"0": 20_000}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_a_bad_request_is_the_clients_own_error(server: Asks, fields: dict, param: str, streams: bool):
    with openai_client(server) as client, pytest.raises(openai.BadRequestError) as caught:
        ask(client, stream=streams, **fields)
    assert str(caught.value.param).startswith(param)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_a_model_that_is_not_there(server: Asks):
    with openai_client(server) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, model="gpt-nothing")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("org/other")
        with pytest.raises(openai.NotFoundError, match="nothing at"):
            client.embeddings.create(model=NAME, input="x")


def test_keys_become_the_clients_own_errors(folder: Path):
    with offer(folder, api_keys=["right"]) as server:
        with openai_client(server, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
            ask(client)
        with openai_client(server, api_key="right") as client:
            assert ask(client).choices


def test_a_full_queue_is_the_clients_own_error(tmp_path: Path):
    endless = write_endless(tmp_path / "endless")
    with offer(endless, queue=1) as server, openai_client(server) as client:
        running: Any = ask(client, stream=True, max_tokens=None)
        next(iter(running))
        waiting: Any = ask(client, stream=True)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        assert caught.value.code == "overloaded"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        running.close()
        assert text_of(list(waiting)) == told(endless, "Hello there", 8)


# Many at once ---------------------------------------------------------------------------------


def test_concurrent_requests_each_get_their_own_answer(server: Asks, model: mlxone.Model):
    prompts = [f"Question {number}" for number in range(8)]
    expected = [in_process(model, prompt)[0] for prompt in prompts]

    async def one(client: openai.AsyncOpenAI, prompt: str, streams: bool) -> str:
        messages: Any = [{"role": "user", "content": prompt}]
        given = {"model": NAME, "messages": messages, "max_tokens": 8, "temperature": 0, "stream": streams}
        answer: Any = await client.chat.completions.create(**given)
        if not streams:
            return answer.choices[0].message.content
        return text_of([chunk async for chunk in answer])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", **OPTIONS) as client:
            return await asyncio.gather(*(one(client, p, i % 2 == 0) for i, p in enumerate(prompts)))

    assert asyncio.run(main()) == expected
    server.until_idle()


# One truth with a real model --------------------------------------------------------------------


def test_the_starter_over_http_says_what_it_says_in_process(starter_folder: Path):
    question = "Name the capital of France."
    with offer(starter_folder) as server, openai_client(server) as client:
        answer = ask(client, messages=[{"role": "user", "content": question}], max_tokens=12)
    text, stats = in_process(mlxone.load(starter_folder), question, max_tokens=12)
    assert answer.choices[0].message.content == text and "Paris" in text
    assert answer.usage.prompt_tokens == stats.prompt_tokens
