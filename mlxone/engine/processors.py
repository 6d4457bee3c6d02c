"""What changes logits before a token is drawn: bias, and penalties on what was said lately.

A processor is a function of (recent tokens, logits [V]). Tokens are an array, not a list: the
last of them may not have been computed yet when the next step is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlxone.backend.arrays import mx
from mlxone.core.words import Sampling

Processor = Callable[[mx.array, mx.array], mx.array]


class History:
    """The last tokens a row has seen, as many as its widest penalty looks at; 0 means all."""

    def __init__(self, tokens: Sequence[int], widest: int) -> None:
        self._widest = widest
        self.recent = mx.array(list(tokens[-widest:] if widest else tokens), mx.uint32)

    def add(self, token: mx.array) -> None:
        grown = mx.concatenate([self.recent, token.reshape(1).astype(mx.uint32)])
        self.recent = grown[-self._widest :] if self._widest else grown


def make_processors(sampling: Sampling) -> tuple[list[Processor], int]:
    """The processors in their order, and how far back the widest looks."""
    processors: list[Processor] = []
    windows: list[int] = []
    if sampling.logit_bias:
        processors.append(_bias(dict(sampling.logit_bias)))
    penalties: list[tuple[float | None, float, int, Callable[[mx.array, mx.array, float], mx.array]]] = [
        (sampling.repetition_penalty, 1.0, sampling.repetition_context_size, penalize_repetition),
        (sampling.presence_penalty, 0.0, sampling.presence_context_size, penalize_presence),
        (sampling.frequency_penalty, 0.0, sampling.frequency_context_size, penalize_frequency),
    ]
    for strength, neutral, window, penalize in penalties:
        if strength is not None and strength != neutral:
            processors.append(_windowed(penalize, strength, window))
            windows.append(window)
    return processors, 0 if 0 in windows else max(windows, default=1)


def _windowed(
    penalize: Callable[[mx.array, mx.array, float], mx.array], strength: float, window: int
) -> Processor:
    # tokens[-0:] is everything, which is what a window of 0 means.
    return lambda tokens, logits: penalize(tokens[-window:], logits, strength)


def _bias(bias: dict[int, float]) -> Processor:
    ids, values = mx.array(list(bias), mx.uint32), mx.array(list(bias.values()))
    return lambda tokens, logits: logits.at[ids].add(values.astype(logits.dtype))


def penalize_repetition(tokens: mx.array, logits: mx.array, strength: float) -> mx.array:
    seen = logits[tokens]
    seen = mx.where(seen < 0, seen * strength, seen / strength)
    return mx.put_along_axis(logits, tokens, seen, axis=-1)


def penalize_presence(tokens: mx.array, logits: mx.array, strength: float) -> mx.array:
    """Once for each token seen, however often: equal indices write equal values."""
    return mx.put_along_axis(logits, tokens, logits[tokens] - strength, axis=-1)


def penalize_frequency(tokens: mx.array, logits: mx.array, strength: float) -> mx.array:
    return logits.at[tokens].subtract(mx.array(strength, logits.dtype))
