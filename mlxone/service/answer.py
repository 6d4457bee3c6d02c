"""One request, answered: ids in, events out. Every answer ends in exactly one terminal event."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace

from mlxone.backend.arrays import mx
from mlxone.core.errors import ContextOverflow, MlxoneError, OutOfMemory, UsageError
from mlxone.core.words import (
    ChatRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    Stats,
    Token,
    TopLogprob,
)
from mlxone.engine.loop import decode, prefill
from mlxone.engine.row import Drawn, Row
from mlxone.kv.state import ModelState
from mlxone.service.checks import check_ids, check_number, checked_template_values
from mlxone.service.memory import Remembers
from mlxone.service.model import Model
from mlxone.text.decoder import StreamDecoder
from mlxone.text.stops import StopStrings


def answer(
    model: Model, request: ChatRequest, memory: Remembers | None = None
) -> Generator[Event, None, None]:
    """Progress while the prompt is read, then tokens, then Finished or Failed.

    A request that cannot be honoured as asked raises before anything runs; later failures are
    the Failed event. Closing the iterator cancels. With a `memory` only what is new to it is read.
    """
    return Answer(model, request, memory=memory).events()


def prompt_ids(model: Model, request: ChatRequest) -> list[int]:
    given = [f for f in (request.messages, request.text, request.ids) if f is not None]
    if len(given) != 1:
        raise UsageError("a request has exactly one of messages, text and ids")
    if request.ids is not None:
        ids = list(request.ids)
    elif request.text is not None:
        ids = model.tokenizer.encode(request.text, add_special=True)
    else:
        ids = model.tokenizer.encode_rendered(render(model, request))
    if not ids:
        raise UsageError("the prompt is empty", hint="give at least one word")
    check_ids(ids, model.vocab_size)  # a tokenizer may know more tokens than the model
    return ids


def render(model: Model, request: ChatRequest) -> str:
    """The conversation as the model's template writes it."""
    if model.template is None:
        raise UsageError(
            f"{model.name} has no chat template", hint="give one with --chat-template, or use --raw"
        )
    kwargs = checked_template_values(request.template_kwargs)
    if request.thinking is not None:
        kwargs.setdefault("enable_thinking", request.thinking)
    return model.template.render([m.as_template() for m in request.messages or ()], **kwargs)


class Answer:
    def __init__(
        self,
        model: Model,
        request: ChatRequest,
        state: ModelState | None = None,
        memory: Remembers | None = None,
    ) -> None:
        self.model, self.request = model, request
        check_number("prefill_step", request.prefill_step)
        check_number("logprobs", request.logprobs)
        ids = prompt_ids(model, request)
        self.max_tokens = _room(model, request, len(ids))
        self.text = _Text(model.tokenizer.stream(), StopStrings(request.stop))
        self.eos = model.eos_token_ids
        if request.eos_token_ids is not None:
            check_ids(request.eos_token_ids, model.vocab_size)
            self.eos = frozenset(request.eos_token_ids)
        self.selection = model.adapters.select(request.adapter)
        self.memory = None if memory is None else memory.within(self.selection.key)
        if self.memory is not None:
            state = self.memory.recall(model, ids)
        # After all that may refuse: a given state is the caller's, and whoever used it lets go now.
        self.state = model.new_state() if state is None else _checked_state(state, model)
        self.state.hold()
        self.cached = _reuse(self.state, ids)
        seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(63)
        self.row = Row(
            self.selection.decoder, ids, self.state, request.sampling, seed=seed, logprobs=request.logprobs
        )
        self.state.hold(self.row.release)
        self.clock = _Clock()
        self.ended: FinishReason | None = None  # known once the last token is, whether it was read or not

    def events(self) -> Generator[Event, None, None]:
        self.clock.begin()
        failed = False
        try:
            yield from self._prompt()
            reason = yield from self._tokens()
            yield Finished(self.stats(reason))
        except Exception as error:  # noqa: BLE001 - the boundary of one answer: it always ends in an event
            failed = True  # what a broken pass left is not worth trusting
            yield Failed(_as_ours(error))
        finally:
            self.leave()
            if self.memory is not None and not failed and not self.row.let_go:
                self.memory.keep(self.state, self.row.fed)

    def leave(self) -> None:
        """Gives the state up, also where nothing was ever asked of this answer."""
        self.state.leave(self.row.release)

    def _prompt(self) -> Generator[Progress, None, None]:
        stops = self.row.stops(self.request.borders) if self.memory is not None else []
        with closing(prefill(self.row, self.request.prefill_step, stops)) as chunks:
            for progress in chunks:
                if self.memory is not None and progress.done in stops:
                    self.memory.checkpoint(self.state, self.row.fed)
                yield progress

    def _share_prompt(self) -> None:
        """For others who ask alike; when the first token is out, as that is what somebody waits for.

        A state that cannot be cut was kept while the prompt was read.
        """
        if self.memory is not None and self.state.cuttable and not self.row.let_go:
            self.memory.checkpoint(self.state, self.row.fed)

    def _tokens(self) -> Generator[Token, None, FinishReason]:
        with closing(decode(self.row, self.max_tokens)) as steps:
            for index, drawn in enumerate(steps):
                self.clock.token()
                token, reason = self._token(drawn, index)
                if reason is not None:
                    steps.close()  # before the token is handed out: the clock stops with the work
                    self.ended = reason
                yield token
                if reason is not None:
                    return reason
                if index == 0:
                    self._share_prompt()
        raise MlxoneError("the engine stopped without a reason")

    def _token(self, drawn: Drawn, index: int) -> tuple[Token, FinishReason | None]:
        reason: FinishReason | None = None
        text = ""
        if drawn.token in self.eos:
            reason = "stop"
        else:
            text = self.text.add(drawn.token)
            if self.text.stop is not None:
                reason = "stop"
            elif index + 1 == self.max_tokens:
                reason = "length"
        if reason is not None and self.text.stop is None:
            text += self.text.finish()
            # What was held back may itself complete a stop string.
            reason = "stop" if self.text.stop is not None else reason
        piece = None if self.request.logprobs is None else self.model.tokenizer.token_text(drawn.token)
        return Token(drawn.token, index, text, drawn.logprob, self._alternatives(drawn), piece), reason

    def _alternatives(self, drawn: Drawn) -> tuple[TopLogprob, ...] | None:
        if self.request.logprobs is None:
            return None
        name = self.model.tokenizer.token_text
        return tuple(TopLogprob(id, name(id), logprob) for id, logprob in drawn.top)

    def stats(self, reason: FinishReason) -> Stats:
        stats = self.clock.stats(prompt=len(self.row.ids) - self.cached)
        return replace(
            stats,
            prompt_tokens=len(self.row.ids),
            cached_tokens=self.cached,
            peak_memory_bytes=mx.get_peak_memory(),
            finish_reason=self.ended or reason,
            stop_string=self.text.stop,
            cache_tokens=tuple(self.row.fed),
        )


@dataclass(slots=True)
class _Text:
    """Ids to the text that is safe to show: whole characters, nothing of a stop string."""

    decoder: StreamDecoder
    stops: StopStrings

    @property
    def stop(self) -> str | None:
        return self.stops.hit

    def add(self, id: int) -> str:
        return self.stops.feed(self.decoder.add(id))

    def finish(self) -> str:
        text = self.stops.feed(self.decoder.finish())
        return text + (self.stops.finish() if self.stops.hit is None else "")


class _Clock:
    """The prompt's time lasts until the first token is there, decoding's begins then."""

    def __init__(self) -> None:
        self.start = self.last = 0.0
        self.first: float | None = None
        self.tokens = 0

    def begin(self) -> None:
        """When the first event is asked for: until then nothing runs."""
        self.start = self.last = time.perf_counter()

    def token(self) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.tokens += 1

    def stats(self, prompt: int) -> Stats:
        first = self.first or (time.perf_counter() if self.start else 0.0)
        prefill, decoding = first - self.start, self.last - first if self.tokens else 0.0
        return Stats(
            generated_tokens=self.tokens,
            prefill_ms=prefill * 1e3,
            decode_ms=decoding * 1e3,
            prefill_tps=prompt / prefill if prefill else 0.0,
            decode_tps=self.tokens / decoding if decoding else 0.0,
        )


def _room(model: Model, request: ChatRequest, prompt: int) -> int:
    """How many tokens the answer may have."""
    check_number("max_tokens", request.max_tokens)
    check_number("ctx_size", request.context_size)
    limits = [n for n in (request.context_size, model.context_length) if n is not None]
    if not limits:
        return request.max_tokens or 2**31
    context = min(limits)
    if prompt >= context:
        raise ContextOverflow(
            f"the prompt has {prompt} tokens and the context {context}: no room for an answer",
            hint="shorten the prompt" + (" or raise --ctx-size" if context != model.context_length else ""),
        )
    return min(request.max_tokens or context, context - prompt)


def _checked_state(state: ModelState, model: Model) -> ModelState:
    if not isinstance(state, ModelState) or len(state.layers) != len(model.decoder.new_state().layers):
        raise UsageError(
            "the given state does not belong to this model", hint="make it with model.new_state()"
        )
    return state


def _reuse(state: ModelState, ids: list[int]) -> int:
    """How many prompt tokens the state holds already; one is always left to be read anew."""
    surplus = state.offset - (len(ids) - 1)
    if surplus > 0 and not state.trim(surplus):
        raise UsageError(
            f"the given state holds {state.offset} tokens and cannot go back to {len(ids) - 1}",
            hint="give a state that is shorter than the prompt",
        )
    return state.offset


def _as_ours(error: Exception) -> Exception:
    if isinstance(error, MlxoneError):
        return error
    ours: MlxoneError
    if isinstance(error, MemoryError) or "allocate" in str(error):  # MLX raises a RuntimeError
        ours = OutOfMemory(
            f"not enough memory: {error}", hint="a smaller model or a shorter context needs less"
        )
        ours.__cause__ = error
        return ours
    ours = MlxoneError(f"generation failed: {type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours
