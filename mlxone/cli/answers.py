"""One answer from its events: text to a sink, progress to the status line, figures at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mlxone.cli.sinks import Sink
from mlxone.cli.terminal import StatusLine
from mlxone.core.errors import MlxoneError
from mlxone.core.words import Event, Failed, Finished, Progress, Stats, Token

if TYPE_CHECKING:
    from mlxone.service.model import Model

SHORT_PROMPT = 512  # tokens read too quickly for a progress line to be of use


@dataclass(slots=True)
class Answer:
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    stats: Stats | None = None  # None: stopped before the end


def consume(
    events: Iterator[Event],
    sink: Sink,
    status: StatusLine,
    *,
    stopped: Callable[[], bool] = lambda: False,
    into: Answer | None = None,
) -> Answer:
    """Reads an answer to its end, or until `stopped`; the iterator is closed in any case.

    Who wants what was said before an exception passes `into`.
    """
    answer = Answer() if into is None else into
    done = False
    try:
        done = _read(events, answer, sink, status, stopped)
    finally:
        with _closing(events):
            status.clear()
            if done:
                sink.finish()
            else:
                sink.abandon()
    return answer


def _read(
    events: Iterator[Event], answer: Answer, sink: Sink, status: StatusLine, stopped: Callable[[], bool]
) -> bool:
    for event in events:
        if isinstance(event, Token):
            answer.tokens.append(event.token)
            answer.text += event.text
            if event.text:
                status.clear()
            sink.write(event.text)  # without text too: a live screen may be behind
        elif isinstance(event, Progress):
            if event.total >= SHORT_PROMPT:
                status.show(progress_text(event))
        elif isinstance(event, Finished):
            answer.stats = event.stats
            return True
        elif isinstance(event, Failed):
            raise event.error
        if stopped():
            return False
    raise MlxoneError("internal error: the answer has no end")


def _closing(events: Any) -> contextlib.AbstractContextManager[Any]:
    """A generator is closed, which cancels the answer; another iterator has nothing to close."""
    return contextlib.closing(events) if hasattr(events, "close") else contextlib.nullcontext()


def progress_text(event: Progress) -> str:
    percent = 100 * event.done // max(event.total, 1)
    return f"reading the prompt: {event.done:,} of {event.total:,} tokens ({percent} %)"


def stats_text(stats: Stats) -> str:
    """What --stats prints."""
    cached = f" ({stats.cached_tokens:,} cached)" if stats.cached_tokens else ""
    parts = [
        f"prompt {stats.prompt_tokens:,} tokens{cached}, {stats.prefill_tps:.1f} tok/s",
        f"answer {stats.generated_tokens:,} tokens, {stats.decode_tps:.1f} tok/s",
    ]
    if stats.peak_memory_bytes:
        parts.append(f"peak memory {stats.peak_memory_bytes / 1e9:.2f} GB")
    return " · ".join([*parts, f"ended by {stats.finish_reason}"])


def as_json(model: str, answer: Answer) -> dict[str, Any]:
    """The one object of --json. The tokens in the layer states are the caller's business in the
    library only; here they would repeat prompt and answer."""
    stats = asdict(answer.stats) if answer.stats else {}
    reason = stats.pop("finish_reason", "error")
    stats.pop("cache_tokens", None)
    tokens, text = answer.tokens, answer.text
    return {"model": model, "text": text, "tokens": tokens, "finish_reason": reason, "stats": stats}


def learn_from(model: Model, stats: Stats | None) -> None:
    """What an answer cost corrects the next `mlxone fit`; short ones, and a chat's later ones, do not."""
    from mlxone.fitting.work import FEWEST_TOKENS

    if stats is not None and not stats.cached_tokens and stats.generated_tokens >= FEWEST_TOKENS:
        from mlxone.service import learning

        learning.note(model, stats)
