"""Log-probabilities in chunks are those of the whole, and [tokens, vocabulary] never exists."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlxone.backend.arrays import lock, mx, on_cpu, on_stream
from mlxone.models.decoder import logits_of
from mlxone.models.layers import Linear, PackedLinear, PlainLinear
from mlxone.models.quantization import Packing
from mlxone.models.spec import LogitsSpec
from mlxone.training.head import (
    CHUNK_BYTES,
    CPU_CHUNK_BYTES,
    Head,
    chunk_rows,
    scores,
    scores_and_slopes,
    token_logprobs,
)

Scorer = Callable[[mx.array], mx.array]


AROUND = {
    "nothing": LogitsSpec(),
    "granite": LogitsSpec(divide=3.0),
    "cohere": LogitsSpec(multiply=0.25),
    "gemma": LogitsSpec(softcap=3.0),
    "all of it": LogitsSpec(divide_hidden=1.5, multiply=1.25, divide=0.5, softcap=2.0),
}


def plain_way(head: Head, targets: mx.array) -> Scorer:
    def logprobs(hidden: mx.array) -> mx.array:
        logits = logits_of(head.around, head.linear(hidden / (head.around.divide_hidden or 1.0)))
        chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)
        return chosen.squeeze(-1) - mx.logsumexp(logits, axis=-1)

    return logprobs


def heads() -> dict[str, Linear]:
    weight = mx.random.normal((160, 64), key=mx.random.key(0)) * 0.3
    packing = Packing(group_size=32, bits=4, mode="affine")
    return {
        "plain": PlainLinear(weight),
        "with a bias": PlainLinear(weight, mx.arange(160) / 40),
        "packed": PackedLinear(*mx.quantize(weight, group_size=32, bits=4), packing),
    }


@pytest.mark.parametrize("name", ["plain", "with a bias", "packed"])
@pytest.mark.parametrize("rows", [1, 5, 16, 50, None])
@pytest.mark.parametrize("around", AROUND)
def test_chunks_change_nothing(name: str, rows: int | None, around: str):
    with lock, on_stream():
        head = Head(heads()[name], AROUND[around])
        hidden = mx.random.normal((50, 64), key=mx.random.key(1))
        targets = mx.random.randint(0, 160, (50,), key=mx.random.key(2))
        weights = mx.random.normal((50,), key=mx.random.key(3))

        def both(way: Scorer) -> tuple[mx.array, mx.array]:
            (out,), (slope,) = mx.vjp(lambda x: [way(x)], [hidden], [weights])
            return out, slope

        out, slope = both(plain_way(head, targets))
        chunked, chunked_slope = both(lambda x: token_logprobs(head, x, targets, rows=rows))
        assert mx.allclose(out, chunked, rtol=1e-5, atol=1e-5)
        assert mx.abs(slope - chunked_slope).max() < 1e-5 * mx.abs(slope).max()
        paced, slopes = scores_and_slopes(head, hidden, targets, rows=rows)
        assert mx.array_equal(paced, chunked)
        assert mx.array_equal(weights[:, None] * slopes, chunked_slope)
        assert mx.array_equal(scores(head, hidden, targets, rows=rows), chunked)


def test_all_logits_never_exist():
    tokens, vocabulary = 1024, 60_000
    with lock, on_stream():
        linear = PlainLinear(mx.random.normal((vocabulary, 16)))
        head = Head(linear)
        hidden, targets = mx.random.normal((tokens, 16)), mx.zeros((tokens,), mx.int32)
        mx.eval(linear.weight, hidden, targets)

        def peak(work: Callable[[], object]) -> int:
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            mx.eval(work())
            return mx.get_peak_memory() - before

        whole = 4 * tokens * vocabulary
        ours = lambda: mx.value_and_grad(lambda x: token_logprobs(head, x, targets).sum())(hidden)  # noqa: E731
        theirs = lambda: mx.value_and_grad(lambda x: plain_way(head, targets)(x).sum())(hidden)  # noqa: E731
        paced = lambda: scores_and_slopes(head, hidden, targets)  # noqa: E731
        assert peak(theirs) > whole
        assert peak(ours) < 0.8 * whole
        # One chunk, and what is made of it.
        assert peak(paced) < 4 * (CPU_CHUNK_BYTES if on_cpu() else CHUNK_BYTES)


def test_a_chunk_takes_what_it_may():
    for vocabulary in (96, 49_152, 128_256, 10_000_000):
        for cpu, most in ((True, CPU_CHUNK_BYTES), (False, CHUNK_BYTES)):
            rows = chunk_rows(vocabulary, cpu)
            assert rows % 16 == 0 and (rows == 16 or 4 * vocabulary * rows <= most)
