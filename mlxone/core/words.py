"""The values rooms hand to each other: a request, its parts, the events that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `extra` holds what templates may read besides: tool calls, names, reasoning."""

    role: str
    content: str | Sequence[Mapping[str, Any]] | None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_template(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content, **self.extra}

    @classmethod
    def of(cls, value: Message | Mapping[str, Any]) -> Message:
        if isinstance(value, Message):
            return value
        rest = {k: v for k, v in value.items() if k not in ("role", "content")}
        return cls(str(value["role"]), value.get("content"), rest)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The defaults are the library's: greedy, nothing penalised."""

    temperature: float = 0.0
    top_p: float = 0.0  # 0 and 1 both mean off
    top_k: int = 0
    min_p: float = 0.0
    min_tokens_to_keep: int = 1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_special_tokens: tuple[int, ...] = ()
    seed: int | None = None  # None: drawn afresh for each request
    repetition_penalty: float | None = None
    repetition_context_size: int = 20
    presence_penalty: float | None = None
    presence_context_size: int = 20
    frequency_penalty: float | None = None
    frequency_context_size: int = 20
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked of a model: exactly one of messages, text or ids, and how to answer."""

    messages: tuple[Message, ...] | None = None
    text: str | None = None  # no template; special tokens in it are honoured
    ids: tuple[int, ...] | None = None
    sampling: Sampling = Sampling()
    wishes: Mapping[str, Any] = field(default_factory=dict)  # sampling values a client gave, before defaults
    max_tokens: int | None = None  # None: to the end of the context
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # how many alternatives to report; None reports nothing
    eos_token_ids: tuple[int, ...] | None = None  # None: the model's own
    context_size: int | None = None  # None: the model's own
    prefill_step: int = 2048
    thinking: bool | None = None  # None: what the template does by itself
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None  # "id", "a+b" or "none"; None: what whoever answers has for such requests
    borders: tuple[int, ...] = ()  # places in the prompt, in tokens, where other prompts may part from it


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client of a server wants, in no dialect: which model, and so many answers to each prompt.

    Answers are numbered prompt by prompt: choice c of prompt p is number p * choices + c.
    """

    model: str | None  # as the client wrote it
    requests: tuple[ChatRequest, ...]
    choices: int = 1


@dataclass(frozen=True, slots=True)
class TopLogprob:
    token: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. Joined, the texts of all tokens are exactly the answer.

    Text can lag behind its token (half a character, a possible stop string); the last token
    of an answer carries what was held back. An end-of-sequence token has no text of its own.
    """

    token: int
    index: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] | None = None
    piece: str | None = None  # what this token alone reads; told where log-probabilities are


@dataclass(frozen=True, slots=True)
class Stats:
    """What an answer cost. The prompt clock runs until the first token is there."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    peak_memory_bytes: int = 0
    finish_reason: FinishReason = "stop"
    stop_string: str | None = None
    cache_tokens: tuple[int, ...] = ()  # exactly the tokens the layer states now hold


@dataclass(frozen=True, slots=True)
class Progress:
    """Some of a long prompt has been read."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of an answer that ended by itself."""

    stats: Stats


@dataclass(frozen=True, slots=True)
class Failed:
    """The one terminal event of an answer that could not be finished."""

    error: Exception


Event = Progress | Token | Finished | Failed
