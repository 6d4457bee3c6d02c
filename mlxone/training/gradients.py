"""Losses and their gradients for one batch, with or without keeping what lies between.

The caller holds `lock` and `on_stream()`, and evaluates. With `segment` > 0, and in `measure`, arrays
are evaluated here too, one stretch of layers after the other: that is what bounds the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.models.block import AnyBlock
from mlxone.models.changes import Changes
from mlxone.models.decoder import Decoder
from mlxone.training.adapted import adapted_block
from mlxone.training.head import Head, scores, scores_and_slopes, token_logprobs
from mlxone.training.layout import Layout, lay_out
from mlxone.training.learnable import why_not
from mlxone.training.losses import Dpo, Measured, Objective, measured
from mlxone.training.products import for_training
from mlxone.training.samples import Batch, Pair
from mlxone.training.states import by_length, ropes_of, states_of
from mlxone.training.stretches import Stretches
from mlxone.training.trainable import Params, Trainable

__all__ = ["Measured", "Objective", "loss_and_gradients", "measure", "pair_logprobs"]

References = Sequence[tuple[float, float]]  # of each pair: log-probabilities of chosen and rejected
Parts = tuple[mx.array, mx.array, dict[str, mx.array]]  # of a Measured, as MLX's transformations want them
Inputs = dict[str, mx.array]


def loss_and_gradients(
    decoder: Decoder,
    trainable: Trainable,
    params: Params,
    batch: Batch,
    objective: Objective,
    *,
    references: References | None = None,
    segment: int = 0,
    key: mx.array | None = None,
) -> tuple[Measured, Params]:
    """The gradients are of `total`. `segment`: how many layers are computed once more together on the
    way back; 0 keeps everything. The same `key` leaves out the same under dropout."""
    step = _Step(decoder, batch, objective, references)
    if segment:
        return _in_segments(step, trainable, params, segment, key)
    parts, gradients = _whole(step, trainable)(params, step.inputs, key)
    return Measured(*parts), gradients


def measure(
    decoder: Decoder,
    trainable: Trainable | None,
    params: Params,
    batch: Batch,
    objective: Objective,
    *,
    references: References | None = None,
) -> Measured:
    """The loss alone, without dropout; without a trainable, the base's."""
    step = _Step(decoder, batch, objective, references)
    if not step.states:
        logprobs = scores(step.head, step.served(decoder), step.inputs["targets"])
        return Measured(*step.parts(logprobs, step.inputs))
    blocks = [for_training(block) for block in decoder.blocks] if trainable is None else trainable.blocks
    changes: Changes = {} if trainable is None else trainable.changes(params)
    stretches, x = Stretches(), decoder.embed(step.inputs["ids"])
    for layer in range(len(blocks)):
        x = step.through(blocks, range(layer, layer + 1), x, changes)
        stretches.submit([x])
    logprobs = scores(step.head, step.hidden(x), step.inputs["targets"])
    return Measured(*step.parts(logprobs, step.inputs))


def pair_logprobs(
    decoder: Decoder, trainable: Trainable | None, params: Params, pairs: Sequence[Pair]
) -> list[tuple[float, float]]:
    """Of each pair's chosen and rejected answer as a whole."""
    found: Any = measure(decoder, trainable, params, pairs, Dpo()).extras["logprobs"].tolist()
    return [(chosen, rejected) for chosen, rejected in found]


class _Step:
    """One batch laid out over one model, and the parts a pass over it is made of."""

    def __init__(
        self, decoder: Decoder, batch: Batch, objective: Objective, references: References | None
    ) -> None:
        decoder.materialize()
        self.decoder, self.objective = decoder, objective
        self.head = Head(decoder.head, decoder.spec.logits)
        self.beginnings = [f"{decoder.spec.layer_path(i)}." for i in range(len(decoder.blocks))]
        in_one_row = not why_not(decoder.spec)
        one_prompt = in_one_row and not any(by_length(rope) for rope in ropes_of(decoder.spec))
        self.layout = lay_out(batch, shared=one_prompt)
        # Empty where texts cannot lie in one row: then each is read by itself, as it is served.
        self.states: list[Any] = states_of(decoder.spec, self.layout) if in_one_row else []
        self.rows = _rows(self.layout)
        self.inputs: Inputs = {
            "ids": mx.array(self.layout.tokens).reshape(self.layout.shape),
            "targets": mx.array(self.layout.targets),
        }
        if references is not None:
            self.inputs["references"] = mx.array([list(pair) for pair in references])

    def through(self, blocks: Sequence[AnyBlock], layers: range, x: mx.array, changes: Changes) -> mx.array:
        for layer in layers:
            own = {path: c for path, c in changes.items() if path.startswith(self.beginnings[layer])}
            x = adapted_block(blocks[layer], own)(x, self.states[layer], None)
        return x

    def served(self, decoder: Decoder) -> mx.array:
        """The scored tokens' [T, D]."""
        hidden: list[mx.array] = []
        for text in self.layout.segments:
            ids = mx.array(self.layout.tokens[text.start : text.end])[None]
            hidden.append(decoder.hidden(ids, decoder.new_state(), paced=True)[0])
            mx.eval(hidden[-1])
        return mx.concatenate(hidden)[mx.array(self.layout.rows)]

    def hidden(self, x: mx.array) -> mx.array:
        """Of what leaves the last layer [.., D], the scored tokens' [T, D], as the head reads them."""
        x = x.reshape(-1, x.shape[-1])
        return self.decoder.norm(x if self.rows is None else x[self.rows])

    def parts(self, logprobs: mx.array, inputs: Inputs) -> Parts:
        found = measured(self.objective, logprobs, self.layout.counts, inputs.get("references"))
        return found.total, found.weight, found.extras


def _rows(layout: Layout) -> slice | mx.array | None:
    """What of the row is scored, to be taken in the cheapest way."""
    first, last = layout.rows[0], layout.rows[-1]
    if layout.rows == tuple(range(first, last + 1)):
        return None if len(layout.rows) == len(layout.tokens) else slice(first, last + 1)
    return mx.array(layout.rows)


Run = Callable[[Params, Inputs, mx.array | None], tuple[Parts, Params]]


def _whole(step: _Step, trainable: Trainable) -> Run:
    def run(params: Params, inputs: Inputs, key: mx.array | None) -> tuple[Parts, Params]:
        def total(params: Params) -> Parts:
            changes = trainable.changes(params, key)
            x = step.decoder.embed(inputs["ids"])
            x = step.through(trainable.blocks, range(len(trainable.blocks)), x, changes)
            return step.parts(token_logprobs(step.head, step.hidden(x), inputs["targets"]), inputs)

        found: tuple[Parts, Params] = mx.value_and_grad(total)(params)
        return found

    return run


def _in_segments(
    step: _Step, trainable: Trainable, params: Params, size: int, key: mx.array | None
) -> tuple[Measured, Params]:
    """Forward, keeping what enters each segment; then back, each segment computed once more."""
    count = len(trainable.blocks)
    segments = [range(start, min(start + size, count)) for start in range(0, count, size)]
    names = [[n for n in trainable.names(layers) if n in params] for layers in segments]
    first = next(i for i, own in enumerate(names) if own)  # before it nothing is trained

    def run(place: int) -> Callable[..., list[mx.array]]:
        def segment(x: mx.array, *own: mx.array) -> list[mx.array]:
            changes = trainable.changes(dict(zip(names[place], own, strict=True)), key)
            return [step.through(trainable.blocks, segments[place], x, changes)]

        return segment

    stretches, x = Stretches(), step.decoder.embed(step.inputs["ids"])
    entering: list[mx.array] = []
    for place in range(len(segments)):
        if place >= first:
            entering.append(x)
        x = run(place)(x, *(params[name] for name in names[place]))[0]
        stretches.submit([x])
    parts, slope = _at_the_end(step, x)
    del x
    stretches.submit([slope, parts[0], parts[1], *parts[2].values()])
    gradients: Params = {}
    for place in reversed(range(first, len(segments))):
        primals = [entering.pop(), *(params[name] for name in names[place])]
        # Of the results only the gradients are held: a held output would keep all that led to it.
        slope, *own = mx.vjp(run(place), primals, [slope])[1]
        del primals
        gradients |= zip(names[place], own, strict=True)
        stretches.submit([slope, *own] if place > first else own)
    return Measured(*parts), gradients


def _at_the_end(step: _Step, x: mx.array) -> tuple[Parts, mx.array]:
    """The loss, and its gradient for what leaves the last layer."""
    logprobs, slopes = scores_and_slopes(step.head, step.hidden(x), step.inputs["targets"])
    parts, weights = mx.value_and_grad(lambda logprobs: step.parts(logprobs, step.inputs))(logprobs)
    return parts, mx.vjp(step.hidden, [x], [weights[:, None].astype(slopes.dtype) * slopes])[1][0]
