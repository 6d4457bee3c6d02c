"""A byte tokenizer and a model that says what it was told to: the roads above the engine, in milliseconds."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.core.words import ChatRequest, Event, Failed, Finished, FinishReason, Progress, Stats, Token

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
    seen: list[ChatRequest] = field(default_factory=list)

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
