"""Checked rows to tokens and masks, as one model's template and tokenizer write them.

The ids are those that mlx-lm trains on. Under the scope "response" only the last assistant message
is scored: what comes behind it has no part in that and is left away. Its prompt is as long as what the
template writes to ask for it, also where that is no beginning of the whole. Longer than `max_length`: cut.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxone.core.errors import DataError, TemplateError, UsageError
from mlxone.service.model import Model
from mlxone.training.data.formats import Format, Turns, both_turns, turns
from mlxone.training.data.rows import BadRow, Row, Tally
from mlxone.training.samples import Pair, Sample

SCOPES = ("full", "response")
TICK = 200  # rows between two calls of a progress callback


@dataclass(slots=True)
class Encoded:
    """In the rows' order. `whole` has the length of each before cutting, left-out ones included."""

    samples: list[Sample] | list[Pair] = field(default_factory=list)
    truncated: int = 0
    skipped: dict[str, int] = field(default_factory=dict)  # by reason
    whole: list[int] = field(default_factory=list)
    fingerprint: str = ""  # sha256 of all that is learned from

    @property
    def lengths(self) -> list[int]:
        """Tokens that each takes in a batch: a pair has its prompt once."""
        return [length(sample) for sample in self.samples]

    @property
    def scored(self) -> int:
        return sum(_scored(sample) for sample in self.samples)


def length(sample: Sample | Pair) -> int:
    if isinstance(sample, Sample):
        return len(sample.ids)
    return len(sample.prompt) + len(sample.chosen) + len(sample.rejected)


def encode(
    rows: Iterable[Row],
    model: Model,
    format: Format,
    *,
    scope: str = "full",
    max_length: int = 2048,
    skip_bad: bool = False,
) -> Encoded:
    """`watched` around the rows tells how far it is."""
    encoder = Encoder(model, format, scope)
    if max_length < 2:
        raise UsageError(f"samples need at least 2 tokens, not {max_length}", param="max_seq_length")
    tally, made, samples, count = Tally(skip_bad), Encoded(), [], 0
    for row in rows:
        count += 1
        with tally.row(row.place):
            whole = encoder.encode(row)
            made.whole.append(_longest(whole))
            sample = _cut(whole, max_length)
            if sample is None:
                tally.count(f"nothing left to score within {max_length:,} tokens")
                continue
            made.truncated += sample is not whole
            samples.append(sample)
    tally.finish()
    if count and not samples:
        hint = "raise --max-seq-length" if made.whole else ""
        first = f" ({tally.first})" if tally.first else ""
        raise DataError(f"none of the {count:,} rows can be used: {tally.summary()}{first}", hint=hint)
    made.samples, made.skipped = samples, tally.skipped  # type: ignore[assignment]
    made.fingerprint = fingerprint(samples)
    return made


def watched(rows: Sequence[Row], tell: Callable[[int, int], object]) -> Iterator[Row]:
    """The rows; now and then `tell(done, all)`."""
    for done, row in enumerate(rows):
        if done % TICK == 0:
            tell(done, len(rows))
        yield row
    tell(len(rows), len(rows))


def fingerprint(samples: Iterable[Sample | Pair]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        parts: tuple[Sequence[int], ...] = (
            ((sample.prompt,), sample.ids)
            if isinstance(sample, Sample)
            else (sample.prompt, sample.chosen, sample.rejected)
        )
        for part in (tuple(map(len, parts)), *parts):
            digest.update(struct.pack(f"<{len(part)}I", *part))
    return digest.hexdigest()


class Encoder:
    """One row at a time, at its full length; raises BadRow."""

    def __init__(self, model: Model, format: Format, scope: str = "full") -> None:
        if scope not in SCOPES:
            raise UsageError(f"the scope is full or response, not {scope!r}", param="sft_scope")
        if format == "text" and scope == "response":
            raise UsageError(
                "text data has no prompt to mask: its scope must be full",
                hint="use `prompt` and `completion`, or `messages`",
                param="sft_scope",
            )
        if format != "text" and model.template is None:
            raise UsageError(
                f"{model.name} has no chat template, and {format} data needs one",
                hint="give the data as `text`, or add a chat_template.jinja to the model's folder",
            )
        self._model, self._format, self._scope = model, format, scope
        if format != "text" and not self._writes_answers():
            raise UsageError(
                f"the chat template of {model.name} writes no assistant messages, and {format} data "
                "needs them",
                hint="give the data as `text`, or a template that writes them to the model's folder",
            )

    def encode(self, row: Row) -> Sample | Pair:
        if self._format == "text":
            return Sample(self._checked(self._text(row.value["text"])), 0, row.place)
        if self._format == "preference":
            return self._pair(row)
        messages, tools = turns(row.value, self._format), row.value.get("tools")
        if self._scope == "full":
            return Sample(self._checked(self._chat(messages, tools)), 0, row.place)
        last = max((at for at, turn in enumerate(messages) if turn["role"] == "assistant"), default=None)
        if last is None:
            raise BadRow("no assistant turn", "no message is the assistant's, so there is none to score")
        ids = self._checked(self._chat(messages[: last + 1], tools))
        return Sample(ids, self._prompt(ids, messages[:last], tools), row.place)

    def _writes_answers(self) -> bool:
        """A template that wants another conversation than this one speaks for itself with the first row."""
        asked: Turns = [{"role": "user", "content": "question"}]
        answered: Turns = [*asked, {"role": "assistant", "content": "answer"}]
        try:
            return self._written(asked, None) != self._written(answered, None)
        except BadRow:
            return True

    def _text(self, text: str) -> list[int]:
        tokenizer = self._model.tokenizer
        ids, end = tokenizer.encode(text, add_special=True), tokenizer.eos_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]

    def _chat(self, messages: Turns, tools: Any, *, open_end: bool = False) -> list[int]:
        return self._model.tokenizer.encode_rendered(self._written(messages, tools, open_end=open_end))

    def _written(self, messages: Turns, tools: Any, *, open_end: bool = False) -> str:
        template = self._model.template
        assert template is not None
        try:
            return template.render(messages, tools=tools, add_generation_prompt=open_end)
        except (TemplateError, UsageError) as error:
            raise BadRow("refused by the chat template", error.message) from error

    def _prompt(self, ids: Sequence[int], before: Turns, tools: Any) -> int:
        """As many tokens as the prompt of a new answer would have here."""
        return min(len(self._chat(before, tools, open_end=True)), len(ids)) if before else 0

    def _pair(self, row: Row) -> Pair:
        tools = row.value.get("tools")
        chosen, rejected = (self._checked(self._chat(side, tools)) for side in both_turns(row.value))
        common = min(_common(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
        if chosen == rejected:
            raise BadRow("same answers", "the chat template writes `chosen` and `rejected` alike")
        if common < 1:
            raise BadRow(
                "no common prompt", "`chosen` and `rejected` have no token in common at their beginning"
            )
        return Pair(chosen[:common], chosen[common:], rejected[common:], row.place)

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        size = self._model.vocab_size
        if len(ids) < 2:
            raise BadRow("too short", "it has less than two tokens: nothing can be learned from it")
        if max(ids) >= size:  # a tokenizer may know more tokens than the model
            raise BadRow("unknown token", f"token {max(ids)} is outside the model's vocabulary of {size:,}")
        return tuple(ids)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _longest(sample: Sample | Pair) -> int:
    """Of one text: what is held against the limit."""
    if isinstance(sample, Sample):
        return len(sample.ids)
    return len(sample.prompt) + max(len(sample.chosen), len(sample.rejected))


def _cut(sample: Sample | Pair, room: int) -> Sample | Pair | None:
    """The very sample where it fits, None where nothing to score is left. A prompt is never cut."""
    if isinstance(sample, Sample):
        cut = sample if len(sample.ids) <= room else Sample(sample.ids[:room], sample.prompt, sample.place)
        return cut if cut.scored > 0 else None
    left = room - len(sample.prompt)
    if left < 1:
        return None
    if _longest(sample) <= room:
        return sample
    return Pair(sample.prompt, sample.chosen[:left], sample.rejected[:left], sample.place)


def _scored(sample: Sample | Pair) -> int:
    return sample.scored if isinstance(sample, Sample) else len(sample.chosen) + len(sample.rejected)
