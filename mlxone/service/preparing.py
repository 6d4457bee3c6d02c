"""A request made complete: every value decided, its prompt in tokens, and known to fit some day.

What a client gave comes before what the operator set, and that before what the model ships. Reads no
weights and needs no MLX thread: templates and tokenising are the slow half, and several run at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mlxone.core.errors import ContextOverflow, MlxoneError, UsageError
from mlxone.core.settings import PREFILL_STEP
from mlxone.core.words import ChatRequest, Sampling
from mlxone.fitting.admission import Refusal
from mlxone.fitting.report import LONGEST
from mlxone.service.answer import prompt_ids
from mlxone.service.borders import borders
from mlxone.service.checks import check_number
from mlxone.service.defaults import make_sampling, sampling_for
from mlxone.service.model import Model
from mlxone.service.options import Options
from mlxone.service.shelf import Loaded

SEEDS = 2**63
OLD = 1.0  # seconds: so old, the figure that refuses an answer is asked for anew


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tokens and numbers only. An open-ended answer's `max_tokens` is the most it could ever have."""

    request: ChatRequest
    open_ended: bool

    @property
    def ids(self) -> tuple[int, ...]:
        assert self.request.ids is not None
        return self.request.ids

    @property
    def max_tokens(self) -> int:
        assert self.request.max_tokens is not None
        return self.request.max_tokens

    def choice(self, number: int) -> Prepared:
        """Choice i of a request with seed s is drawn with s + i: different, and repeatable."""
        seed = self.request.sampling.seed
        if not number or seed is None:
            return self
        sampling = replace(self.request.sampling, seed=(seed + number) % SEEDS)
        return replace(self, request=replace(self.request, sampling=sampling))


def prepare(loaded: Loaded, request: ChatRequest, options: Options) -> Prepared:
    model = loaded.words
    with _naming("max_tokens"):
        check_number("max_tokens", request.max_tokens)
    request = replace(
        _with_template_values(request, options),
        sampling=_sampling(model, request, options),
        context_size=_least(request.context_size, options.ctx_size),
        prefill_step=_step(request, options),
        adapter=_adapter(loaded, request),
    )
    ids = prompt_ids(model, request)
    asked = request.max_tokens if request.max_tokens is not None else options.max_tokens
    room = _room(loaded, request, len(ids), asked)
    request = replace(
        request,
        borders=request.borders or borders(model, request, ids),
        ids=tuple(ids),
        messages=None,
        text=None,
        thinking=None,
        template_kwargs={},
        max_tokens=room,
        wishes={},
    )
    return Prepared(request, open_ended=asked is None)


def defaults(model: Model, options: Options) -> Sampling:
    """What a request without any wishes gets."""
    return sampling_for(model, options.sampling)


def _sampling(model: Model, request: ChatRequest, options: Options) -> Sampling:
    if request.sampling != Sampling():  # whoever made this request has decided already
        if request.wishes:
            raise UsageError("a request has either a sampling of its own or wishes for one")
        return request.sampling
    wishes = {name: value for name, value in request.wishes.items() if value is not None}
    for name, value in wishes.items():
        with _naming(name):
            make_sampling({name: value}, model.vocab_size)
    return sampling_for(model, {**options.sampling, **wishes})


def _with_template_values(request: ChatRequest, options: Options) -> ChatRequest:
    if request.messages is None:
        for name in ("thinking", "template_kwargs"):
            if getattr(request, name):
                raise UsageError(f"{name} needs messages: this prompt goes through no template", param=name)
        return request
    flags: Mapping[str, Any] = options.template_kwargs
    thinking = options.thinking
    if request.thinking is not None:
        thinking = request.thinking
        flags = {name: value for name, value in flags.items() if name != "enable_thinking"}
    return replace(request, thinking=thinking, template_kwargs={**flags, **request.template_kwargs})


def _step(request: ChatRequest, options: Options) -> int:
    """Never more than the memory was counted with."""
    given = request.prefill_step
    return options.prefill_step if given == PREFILL_STEP else min(given, options.prefill_step)


def _adapter(loaded: Loaded, request: ChatRequest) -> str | None:
    """What the request names, or else what the operator said; both are known to be there."""
    wish = request.adapter or loaded.mounts.default
    return wish if loaded.mounts.chosen(wish) else None


def _room(loaded: Loaded, request: ChatRequest, prompt: int, asked: int | None) -> int:
    """How many tokens the answer may have: to the end of the context, and what was asked for at most."""
    admission = loaded.admission
    context = _least(request.context_size, loaded.words.context_length) or LONGEST
    if prompt >= context:
        needed = loaded.needs_bytes(prompt + 1)
        details = _numbers(prompt, asked or 1, needed, admission.budget, context)
        message = f"the prompt has {prompt:,} tokens and the context {context:,}: no room for an answer"
        raise ContextOverflow(message, hint="shorten the prompt", details=details)
    room = context - prompt if asked is None else min(asked, context - prompt)
    refusal = admission.never(prompt, room)
    if refusal is not None and loaded.ledger.measure_again(OLD):
        refusal = admission.never(prompt, room)
    if refusal is None:
        return room
    if asked is None and refusal.max_context > prompt:
        return refusal.max_context - prompt
    hint = "shorten the prompt"
    if refusal.max_context > prompt:
        hint = f"ask for at most {refusal.max_context - prompt:,} tokens"
    raise beyond(refusal, prompt, room, hint)


def beyond(refusal: Refusal, prompt: int, tokens: int, hint: str = "") -> ContextOverflow:
    details = _numbers(prompt, tokens, refusal.needed_bytes, refusal.budget_bytes, refusal.max_context)
    return ContextOverflow(refusal.reason, hint=hint, details=details)


def _numbers(prompt: int, tokens: int, needed: int, budget: int, longest: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "max_tokens": tokens,
        "needed_bytes": needed,
        "budget_bytes": budget,
        "max_context": longest,
    }


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


@contextmanager
def _naming(field: str) -> Iterator[None]:
    try:
        yield
    except MlxoneError as error:
        error.param = error.param or field
        raise
