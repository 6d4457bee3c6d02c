"""Log-probabilities of given tokens, such that [tokens, vocabulary] never exists.

Rows go through the head in chunks. Where a gradient will be asked for, a chunk also leaves what the
gradient is up to a factor, head[target] - softmax @ head, so that the logits need not come back.
What some families do around the head (`LogitsSpec`) is part of both. The head itself is not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlxone.backend.arrays import mx, on_cpu
from mlxone.models.decoder import logits_of
from mlxone.models.layers import Linear
from mlxone.models.spec import LogitsSpec
from mlxone.training.stretches import Stretches

# Of float32 logits. A CPU's memory is taken some ten arrays ahead of the computation.
CHUNK_BYTES, CPU_CHUNK_BYTES = 128 * 2**20, 16 * 2**20


def chunk_rows(vocabulary: int, cpu: bool) -> int:
    """A multiple of 16 whose logits take about as much as a chunk may."""
    return max(16, (CPU_CHUNK_BYTES if cpu else CHUNK_BYTES) // (4 * vocabulary) // 16 * 16)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    linear: Linear
    around: LogitsSpec = LogitsSpec()


def token_logprobs(head: Head, hidden: mx.array, targets: mx.array, *, rows: int | None = None) -> mx.array:
    """[T, D], [T] to [T] float32; a gradient for `hidden` can be had. Evaluates nothing."""
    chunks = _Chunks(head, targets, rows)
    scored: Any = mx.custom_function(chunks.scores_and_slopes)
    scored.vjp(chunks.backward)
    logprobs: mx.array = scored(hidden)[0]
    return logprobs


def scores(head: Head, hidden: mx.array, targets: mx.array, *, rows: int | None = None) -> mx.array:
    """The same numbers without a way back; chunks are evaluated one by one."""
    return _Chunks(head, targets, rows, paced=True).scores(hidden)


def scores_and_slopes(
    head: Head, hidden: mx.array, targets: mx.array, *, rows: int | None = None
) -> tuple[mx.array, mx.array]:
    """[T], [T, D]: and what each number's gradient for `hidden` is; chunks are evaluated one by one."""
    return _Chunks(head, targets, rows, paced=True).scores_and_slopes(hidden)


class _Chunks:
    def __init__(self, head: Head, targets: mx.array, rows: int | None, paced: bool = False) -> None:
        self.head, self.around = head.linear, head.around
        self.targets, self.paced = targets[:, None], paced
        self.rows = rows or chunk_rows(self.head.out_dims, on_cpu())
        self.steepness = _steepness(head.around)
        self.weight = self.head.dense()  # [vocabulary, D]; unpacked once for all chunks

    def scores(self, hidden: mx.array) -> mx.array:
        return mx.concatenate(self._walk(hidden, lambda *chunk: self._score(*chunk)[:1])[0])

    def scores_and_slopes(self, hidden: mx.array) -> tuple[mx.array, mx.array]:
        logprobs, slopes = self._walk(hidden, self._slope)
        return mx.concatenate(logprobs), mx.concatenate(slopes)

    def backward(
        self, hidden: mx.array, cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
    ) -> mx.array:
        return cotangents[0][:, None].astype(hidden.dtype) * outputs[1]

    def _walk(
        self, hidden: mx.array, work: Callable[[mx.array, mx.array], tuple[mx.array, ...]]
    ) -> list[list[mx.array]]:
        done: list[tuple[mx.array, ...]] = []
        stretches = Stretches()
        for start in range(0, hidden.shape[0], self.rows):
            chunk = hidden[start : start + self.rows]
            if done:  # one chunk after the other: none is begun while another's logits are there
                (chunk,) = mx.depends([chunk], list(done[-1]))
            done.append(work(chunk, self.targets[start : start + self.rows]))
            if self.paced:
                stretches.submit(done[-1])
        return [list(column) for column in zip(*done, strict=True)]

    def _score(self, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        around = self.around
        if around.divide_hidden is not None:
            hidden = hidden / around.divide_hidden
        logits = hidden @ self.weight.T
        if self.head.bias is not None:
            logits = logits + self.head.bias
        logits = logits_of(around, logits).astype(mx.float32)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        return (mx.take_along_axis(logits, targets, axis=-1) - total).squeeze(-1), logits, total

    def _slope(self, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        logprobs, logits, total = self._score(hidden, targets)
        shares, own = mx.exp(logits - total), self.weight[targets[:, 0]]
        cap = self.around.softcap
        if cap is not None:  # how much of a change comes through the bend
            passed = 1 - mx.square(logits / cap)
            shares = shares * passed
            own = own * mx.take_along_axis(passed, targets, axis=-1).astype(own.dtype)
        slopes = own - shares.astype(self.weight.dtype) @ self.weight
        return logprobs, slopes if self.steepness == 1 else slopes * self.steepness


def _steepness(around: LogitsSpec) -> float:
    """Of what stands around the head, but for the bend."""
    return (around.multiply or 1.0) / (around.divide or 1.0) / (around.divide_hidden or 1.0)
