"""Whatever answers do, in whatever order: a stream says only what OpenAI's grammar allows, and loses nothing.

Of each choice: its opening once (chat; with the role), then texts, then one closing with a reason, then
no more. After all choices the usage if it was asked for, then [DONE]; or one error, and nothing after.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import TimedOut
from mlxone.core.words import Event, Finished, Progress, Stats, Token, TopLogprob
from mlxone.server.protocols.openai_answers import TextCall
from tests.server.protocols.calls import ABOUT, Numbered, chat, collected, completion, frames

TEXTS = st.sampled_from(["", "", "a", " b", "\N{GRINNING FACE}", '"\\\n', "\0", "\u2028", "data: x\n\n"])
REASONS: st.SearchStrategy[Any] = st.sampled_from(["stop", "length", "cancelled"])


@st.composite
def answers(draw: st.DrawFn, number: int) -> list[Event]:
    progress = [Progress(i, 9) for i in range(draw(st.integers(0, 2)))]
    texts = draw(st.lists(TEXTS, max_size=6))
    tokens = [
        Token(i, i, text, -0.5 * i, (TopLogprob(1, "t", -0.1),), f"{number}.{i}")
        for i, text in enumerate(texts)
    ]
    stats = Stats(prompt_tokens=3, generated_tokens=len(texts), finish_reason=draw(REASONS))
    return [*progress, *tokens, Finished(stats)]


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[int, int, list[Numbered]]:
    """So many prompts, so many choices of each, and their events in one order of the many possible ones."""
    prompts, choices = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    left = {number: draw(answers(number)) for number in range(prompts * choices)}
    order: list[Numbered] = []
    while any(left.values()):
        number = draw(st.sampled_from([n for n, events in left.items() if events]))
        order.append((number, left[number].pop(0)))
    return prompts, choices, order


def calls(prompts: int, choices: int, logprobs: bool, usage: bool) -> list[TextCall]:
    both: dict[str, Any] = {"n": choices, "stream": True, "stream_options": {"include_usage": usage}}
    older = completion(prompt=["x"] * prompts, logprobs=1 if logprobs else None, **both)
    return [older, chat(logprobs=logprobs, **both)] if prompts == 1 else [older]


class Grammar:
    """Reads chunks one by one; an illegal one fails."""

    def __init__(self, choices: int, *, chat: bool, usage: bool) -> None:
        self.chat, self.usage = chat, usage
        self.state = dict.fromkeys(range(choices), "silent" if chat else "speaking")
        self.texts = dict.fromkeys(range(choices), "")
        self.reasons: dict[int, str] = {}
        self.pieces: dict[int, list[str]] = {number: [] for number in range(choices)}
        self.counted: dict[str, Any] = {}
        self.over = ""

    def read(self, data: Any) -> None:
        assert not self.over
        if data == "[DONE]":
            assert set(self.state.values()) == {"closed"}
            assert bool(self.counted) == self.usage
            self.over = "done"
        elif "error" in data:
            self.over = "failed"
        elif not data["choices"]:
            assert self.usage and not self.counted and set(self.state.values()) == {"closed"}
            self.counted = data["usage"]
        else:
            assert not self.counted and data.get("usage", "absent") == (None if self.usage else "absent")
            (choice,) = data["choices"]
            self.choice(choice)

    def choice(self, choice: dict[str, Any]) -> None:
        number = choice["index"]
        said = choice["delta"] if self.chat else choice
        text = said.get("content" if self.chat else "text")
        if self.state[number] == "silent":
            assert said == {"role": "assistant", "content": "", "refusal": None}
            assert choice["finish_reason"] is None
            self.state[number] = "speaking"
            return
        assert self.state[number] == "speaking" and "role" not in said
        if choice["finish_reason"] is not None:
            assert not text and choice["logprobs"] is None
            self.reasons[number], self.state[number] = choice["finish_reason"], "closed"
            return
        told = self.told(choice["logprobs"])
        assert text or told  # nothing is sent that says nothing
        self.texts[number] += text
        self.pieces[number] += told

    def told(self, logprobs: Any) -> list[str]:
        if logprobs is None:
            return []
        return [each["token"] for each in logprobs["content"]] if self.chat else logprobs["tokens"]


def expected(number: int, events: list[Numbered]) -> tuple[str, list[str], Stats]:
    own = [event for choice, event in events if choice == number]
    tokens = [event for event in own if isinstance(event, Token)]
    (end,) = [event for event in own if isinstance(event, Finished)]
    return "".join(t.text for t in tokens), [str(t.piece) for t in tokens], end.stats


@given(interleaved(), st.booleans(), st.booleans())
def test_any_answers_are_said_within_the_grammar(
    asked: tuple[int, int, list[Numbered]], logprobs: bool, usage: bool
):
    prompts, choices, events = asked
    for call in calls(prompts, choices, logprobs, usage):
        grammar = Grammar(prompts * choices, chat=call.shape.kind == "chat.completion", usage=usage)
        streaming = call.streaming(ABOUT)
        said = streaming.begin()
        for each in events:
            said += streaming.keep_alive() + streaming.event(*each)
        for data in frames(said + streaming.end()):
            grammar.read(data)
        assert grammar.over == "done"
        whole = collected(call, events)
        for number, choice in enumerate(whole["choices"]):
            text, pieces, stats = expected(number, events)
            assert grammar.texts[number] == text
            assert grammar.pieces[number] == (pieces if logprobs else [])
            assert grammar.reasons[number] == ("stop" if stats.finish_reason == "stop" else "length")
            # The whole answer says the same as the streamed one.
            assert (choice["message"]["content"] if grammar.chat else choice["text"]) == text
            assert grammar.told(choice["logprobs"]) == grammar.pieces[number]
            assert choice["finish_reason"] == grammar.reasons[number]
        assert not usage or grammar.counted == whole["usage"]


@given(interleaved(), st.booleans(), st.integers(0, 30))
def test_a_failure_at_any_moment_is_the_last_word(
    asked: tuple[int, int, list[Numbered]], logprobs: bool, moment: int
):
    prompts, choices, events = asked
    for call in calls(prompts, choices, logprobs, usage=True):
        grammar = Grammar(prompts * choices, chat=call.shape.kind == "chat.completion", usage=True)
        streaming = call.streaming(ABOUT)
        said = streaming.begin() + b"".join(streaming.event(*each) for each in events[:moment])
        for data in frames(said + streaming.fail(TimedOut("late"))):
            grammar.read(data)
        assert grammar.over == "failed"
