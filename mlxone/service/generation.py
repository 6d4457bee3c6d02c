"""The library's `generate`: a request from plain arguments, its tokens as an iterator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from numbers import Integral
from typing import Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import LIBRARY_MAX_TOKENS, PREFILL_STEP
from mlxone.core.words import ChatRequest, Failed, Finished, Message, Stats, Token
from mlxone.kv.state import ModelState
from mlxone.service.answer import Answer
from mlxone.service.checks import listed
from mlxone.service.defaults import make_sampling
from mlxone.service.model import Model
from mlxone.service.mounts import AND, ids_of

Prompt = str | Sequence[int] | Sequence[Message] | Sequence[Mapping[str, Any]]

# Options with a reserved place: the feature arrives with a later version, the name is settled.
RESERVED: Mapping[str, Any] = {
    "kv_bits": None,
    "kv_group_size": 64,
    "quantized_kv_start": 5000,
    "kv_config": None,
    "prompt_embeddings": None,
    "image_mask": None,
}


class Generation:
    """Iterates over tokens. Afterwards, or after leaving early, `stats` says what it cost."""

    def __init__(self, work: Answer) -> None:
        self._work = work
        self._events = work.events()
        self._stats: Stats | None = None
        self._step = threading.Lock()  # closing from another thread waits for the step in flight

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        with self._step:
            for event in self._events:
                if isinstance(event, Token):
                    return event
                if isinstance(event, Failed):
                    self._stats = self._work.stats("error")
                    raise event.error
                if isinstance(event, Finished):
                    self._stats = event.stats
        raise StopIteration

    @property
    def state(self) -> ModelState:
        """The layer states, holding `stats.cache_tokens`: the beginning of a longer prompt. Ends it, too."""
        self.close()
        return self._work.state

    @property
    def stats(self) -> Stats:
        """What the generation cost. Asking before its end ends it."""
        self.close()
        assert self._stats is not None
        return self._stats

    def close(self) -> None:
        """Ends the generation; the step in flight is taken back where the states allow it."""
        with self._step:
            self._events.close()
            self._work.leave()
            if self._stats is None:
                self._stats = self._work.stats("cancelled")

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncGeneration:
    """The same in an event loop: the work happens on the one thread kept for it."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._next: asyncio.Future[Token | None] | None = None

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        if self._next is None:
            self._next = asyncio.get_running_loop().run_in_executor(_worker(), next, self._generation, None)
        # Shielded and kept: a wait that is cancelled must not lose the token it waited for.
        try:
            token = await asyncio.shield(self._next)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._next = None
            raise
        self._next = None
        if token is None:
            raise StopAsyncIteration
        return token

    @property
    def state(self) -> ModelState:
        """As `Generation.state`."""
        return self._generation.state

    @property
    def stats(self) -> Stats:
        """As `Generation.stats`; asking before the end waits for the step in flight."""
        return self._generation.stats

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(_worker(), self._generation.close)

    async def __aenter__(self) -> AsyncGeneration:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@cache
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlxone-engine")


def generate(
    model: Model,
    prompt: Prompt,
    *,
    max_tokens: int | None = LIBRARY_MAX_TOKENS,
    stop: Iterable[str] | None = None,
    logprobs: int | None = None,
    eos_token_ids: Iterable[int] | None = None,
    prefill_step: int = PREFILL_STEP,
    ctx_size: int | None = None,
    state: ModelState | None = None,
    raw: bool = False,
    thinking: bool | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    adapters: str | Sequence[str] | None = None,
    **sampling: Any,
) -> Generation:
    """Answers a prompt: a text, messages or token ids.

    A text is one user message where the model has a chat template; `raw=True` gives it to the
    model as it stands. `adapters` are ids of what is mounted on `model.adapters`, in the order they work.
    Sampling options are those of `mlxone.Sampling`; by default the likeliest
    token is taken.
    """
    for name, neutral in RESERVED.items():
        given = sampling.pop(name, neutral)
        # It may be an array, which does not compare to one truth.
        if given is not None and not (isinstance(given, int) and given == neutral):
            raise UsageError(f"{name} is not built yet", hint="leave it out for now")
    if not isinstance(thinking, bool | None):
        raise UsageError(f"thinking must be True, False or None, not {str(thinking)[:60]!r}")
    given = _prompt(model, prompt, raw)
    if "messages" not in given and (thinking is not None or template_kwargs):
        raise UsageError("thinking and template_kwargs need a chat template", hint="leave them out")
    request = ChatRequest(
        **given,
        sampling=make_sampling(sampling, model.vocab_size),
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else listed("stop", () if stop is None else stop),
        logprobs=logprobs,
        eos_token_ids=None if eos_token_ids is None else listed("eos_token_ids", eos_token_ids),
        context_size=ctx_size,
        prefill_step=prefill_step,
        thinking=thinking,
        template_kwargs=template_kwargs or {},
        adapter=_wish(adapters),
    )
    return Generation(Answer(model, request, state))


def generate_async(model: Model, prompt: Prompt, **options: Any) -> AsyncGeneration:
    """`generate` for an event loop: `async for token in mlxone.generate_async(model, …)`."""
    return AsyncGeneration(generate(model, prompt, **options))


def _wish(adapters: str | Sequence[str] | None) -> str | None:
    given = adapters if isinstance(adapters, str | None) else listed("adapters", adapters)
    return AND.join(ids_of(given)) or None


def _prompt(model: Model, prompt: Prompt, raw: bool) -> dict[str, Any]:
    if isinstance(prompt, str):
        if raw or model.template is None:
            return {"text": prompt}
        return {"messages": (Message("user", prompt),)}
    items = [] if isinstance(prompt, bytes | bytearray | Mapping) else listed("prompt", prompt)
    if items and all(isinstance(i, Integral) and not isinstance(i, bool) for i in items):
        return {"ids": tuple(int(i) for i in items)}
    if items and all(isinstance(i, Message | Mapping) for i in items):
        if not all(isinstance(i, Message) or "role" in i for i in items):
            raise UsageError("a message needs a role", hint='for example {"role": "user", "content": "Hi"}')
        return {"messages": tuple(Message.of(i) for i in items)}
    raise UsageError("a prompt is a text, a list of messages or a list of token ids")
