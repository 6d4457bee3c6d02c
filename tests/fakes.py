"""A byte tokenizer and a model that says what it was told to: the roads above the engine, in milliseconds."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlxone.core.errors import AdapterNotFound, NotPermitted, UsageError
from mlxone.core.words import (
    Asked,
    ChatRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    Stats,
    Token,
)
from mlxone.service.context import Answers, Context
from mlxone.service.figures import Figures, ModelCard
from mlxone.service.mounting import Mounting
from mlxone.service.mounts import Mount, MountedAdapter, Mounts
from mlxone.service.props import Props

EOS, BOS = 256, 257


class ByteTokenizer:
    """One id per byte of UTF-8, then the two special tokens `</s>` and `<s>`."""

    bos_token, eos_token = "<s>", "</s>"
    eos_id = EOS
    vocab_size = 258
    special_ids = frozenset((EOS, BOS))

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        ids = list(text.encode())
        return [BOS, *ids] if add_special else ids

    def encode_rendered(self, text: str) -> list[int]:
        return self.encode(text)

    def token_text(self, id: int) -> str:
        return {EOS: self.eos_token, BOS: self.bos_token}.get(id) or bytes([id]).decode(errors="replace")

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        stream = self.stream(skip_special=skip_special)
        return "".join(map(stream.add, ids)) + stream.finish()

    def stream(self, *, skip_special: bool = True) -> ByteStream:
        return ByteStream(self, skip_special)


class ByteStream:
    def __init__(self, tokenizer: ByteTokenizer, skip_special: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, id: int) -> str:
        if id not in self._tokenizer.special_ids:
            return self._utf8.decode(bytes([id]))
        cut_off = self._utf8.decode(b"", final=True)
        return cut_off if self._skip else cut_off + self._tokenizer.token_text(id)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class ScriptedAdapters:
    """Mounts whatever folder it is given."""

    def __init__(self) -> None:
        self.mounts = Mounts()

    def mount(self, id: str, path: Path) -> MountedAdapter:
        card = MountedAdapter(id, str(path), 4, 2.0, 10, 2)
        self.mounts.add(Mount(card, path, id, {"model.layers.0.mlp.up_proj": "LowRank"}, 10))
        return card


@dataclass
class ScriptedModel:
    """Emits the script's ids whatever it is asked; `seen` keeps what it was asked, in order."""

    script: Sequence[int] = ()
    name: str = "scripted"
    path: Path = Path("scripted")
    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)
    template: Any = None
    context_length: int = 4096
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    eos_token_ids: frozenset[int] = frozenset((EOS,))
    departures: tuple[str, ...] = ()
    seen: list[ChatRequest] = field(default_factory=list)
    adapters: ScriptedAdapters = field(default_factory=ScriptedAdapters)

    @classmethod
    def saying(cls, text: str, **more: Any) -> ScriptedModel:
        return cls([*text.encode(), EOS], **more)


def scripted_answer(
    *, fail_with: Exception | None = None, after: int = 0
) -> Callable[[ScriptedModel, ChatRequest], Iterator[Event]]:
    """Stands in for `service.answer.answer`; given an error, fails with it once `after` tokens are out."""

    def answer(model: ScriptedModel, request: ChatRequest, memory: object = None) -> Iterator[Event]:
        model.seen.append(request)
        prompt, ids = len(_prompt(model, request)), _answer(model, request)
        yield Progress(prompt, prompt)
        stream = model.tokenizer.stream()
        for index, id in enumerate(ids[:after] if fail_with else ids):
            text = stream.add(id)
            yield Token(id, index, text + stream.finish() if index == len(ids) - 1 else text)
        if fail_with:
            yield Failed(fail_with)
            return
        reason: FinishReason = "stop" if ids and ids[-1] in model.eos_token_ids else "length"
        yield Finished(Stats(prompt_tokens=prompt, generated_tokens=len(ids), finish_reason=reason))

    return answer


def _answer(model: ScriptedModel, request: ChatRequest) -> Sequence[int]:
    """The script up to its first end of sequence, or to as many tokens as the request allows."""
    ends = [i + 1 for i, id in enumerate(model.script) if id in model.eos_token_ids]
    return list(model.script[: min(ends, default=None)])[: request.max_tokens]


def _prompt(model: ScriptedModel, request: ChatRequest) -> Sequence[int]:
    if request.ids is not None:
        return request.ids
    if request.text is not None:
        return model.tokenizer.encode(request.text, add_special=True)
    return model.tokenizer.encode("\n".join(str(m.content) for m in request.messages or ()))


Step = tuple[int, Event] | Exception | asyncio.Event


class FakeAnswers(Answers):
    """The script's events; an Event of asyncio is waited for, an exception raised."""

    def __init__(self, model: str, script: Sequence[Step]) -> None:
        self.model, self.closed, self.given = model, 0, 0
        self._steps = iter(script)

    def __aiter__(self) -> FakeAnswers:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if self.closed:
            raise StopAsyncIteration
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, tuple):
                self.given += 1
                return step
            await step.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1

    async def __aenter__(self) -> FakeAnswers:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class FakeMounting(Mounting):
    """Adapters of one model, which anybody may mount where the context lets itself be managed."""

    def __init__(self, context: FakeContext) -> None:
        self._context = context
        self.cards = {"upper": MountedAdapter("upper", "upper", 8, 2.0, 1_000, 14)}

    async def listing(self, model: str | None = None) -> list[tuple[str, MountedAdapter]]:
        return [(model or self._context.model, card) for card in self.cards.values()]

    async def mount(self, id: str, path: str, model: str | None = None) -> tuple[str, MountedAdapter]:
        self._check()
        self.cards[id] = MountedAdapter(id, path, 4, 0.5, 10, 2)
        return model or self._context.model, self.cards[id]

    async def unmount(self, id: str, model: str | None = None) -> tuple[str, MountedAdapter]:
        if id not in self.cards:
            raise AdapterNotFound(f"no adapter {id!r} is mounted", param="adapter")
        self._check()
        return model or self._context.model, self.cards.pop(id)

    def _check(self) -> None:
        if not self._context.may_manage:
            raise NotPermitted("adapters may not be mounted here", hint="start with --adapter-dir")


class FakeContext(Context):
    """A context without models: what it was asked is in `asked`, what it gave in `gave`."""

    def __init__(
        self, script: Sequence[Step] = (), *, model: str = "org/fake", refusal: Exception | None = None
    ) -> None:
        self.script, self.model, self.refusal = script, model, refusal
        self.asked: list[Asked] = []
        self.gave: list[FakeAnswers] = []
        self.may_manage = False
        self.serves_several = False
        self.mounting = FakeMounting(self)
        self.starting: asyncio.Event | None = None  # what `start` waits for
        self.start_fails: Exception | None = None
        self.graces: list[float] = []  # of each `close`

    async def start(self) -> None:
        if self.starting is not None:
            await self.starting.wait()
        if self.start_fails is not None:
            raise self.start_fails

    async def close(self, grace: float = 0.0) -> None:
        self.graces.append(grace)

    async def answer(self, asked: Asked) -> FakeAnswers:
        self.asked.append(asked)
        if self.refusal is not None:
            raise self.refusal
        self.gave.append(FakeAnswers(self.model, self.script))
        return self.gave[-1]

    def models(self) -> list[ModelCard]:
        return [ModelCard(self.model, 1_700_000_000, 4096, 1_000, loaded=True)]

    async def refresh(self) -> list[ModelCard]:
        return self.models()

    async def load(self, name: str) -> ModelCard:
        if not self.may_manage:
            raise NotPermitted("models may not be loaded by requests", hint="start with --allow-manage")
        return ModelCard(name, 1_700_000_000, loaded=True)

    async def unload(self, name: str) -> ModelCard:
        return replace(await self.load(name), loaded=False)

    @property
    def adapters(self) -> FakeMounting:
        return self.mounting

    @property
    def has_several(self) -> bool:
        return self.serves_several

    async def tokenize(self, model: str | None, text: str, *, add_special: bool = False) -> list[int]:
        return ByteTokenizer().encode(text, add_special=add_special)

    async def detokenize(self, model: str | None, ids: Sequence[int]) -> str:
        return ByteTokenizer().decode(self._checked(ids))

    async def token_texts(self, model: str | None, ids: Sequence[int]) -> list[str]:
        return [ByteTokenizer().token_text(id) for id in self._checked(ids)]

    def _checked(self, ids: Sequence[int]) -> Sequence[int]:
        for id in ids:
            if id >= ByteTokenizer.vocab_size:
                raise UsageError(f"{id} is no token of {self.model}")
        return ids

    async def props(self, model: str | None = None) -> Props:
        return Props(model or self.model, 4096, "{{ messages }}", "<s>", "</s>", {"temperature": 0.7})

    def figures(self) -> Figures:
        return Figures("embedded", self.model, 1_700_000_000.0, (self.model,))


def spoken(text: str, *, choice: int = 0, prompt: int = 5, reason: FinishReason = "stop") -> list[Step]:
    """An answer that says the text, one letter a token."""
    tokens = [(choice, Token(ord(letter), index, letter)) for index, letter in enumerate(text)]
    stats = Stats(prompt, 0, len(text), 1.0, 10.0 * len(text), finish_reason=reason)
    return [(choice, Progress(prompt, prompt)), *tokens, (choice, Finished(stats))]
