"""Random checkpoints on disk, and the comparison with mlx-lm that parity means.

mlx-lm builds the random model and saves it; both then load the same folder. What is compared is
every logit, with `array_equal`: prefill in chunks, then 40 decode steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model as mlx_lm_load

from mlxone.backend.arrays import mx, on_stream
from mlxone.formats.config import Config
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder

DECODE_STEPS = 40


def logits_of_mlx_lm(
    folder: Path, ids: Sequence[int], chunks: Sequence[int], *, adapter: Path | None = None
) -> list[mx.array]:
    model, _ = mlx_lm_load(folder)
    if adapter is not None:
        load_adapters(model, str(adapter))
    return run_mlx_lm(model, ids, chunks)


def run_mlx_lm(model: Any, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    cache = make_prompt_cache(model)
    results: list[mx.array] = []
    for chunk in _chunks(ids, chunks):
        results.append(model(mx.array([chunk]), cache=cache))
        mx.eval(results[-1])
    return results


def logits_of_ours(folder: Path, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    return run_ours(load_decoder(folder, config=Config.read(folder)), ids, chunks)


def run_ours(decoder: Decoder, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    state = decoder.new_state()
    results: list[mx.array] = []
    with on_stream():
        for chunk in _chunks(ids, chunks):
            results.append(decoder.logits(decoder.hidden(mx.array([chunk]), state)))
            mx.eval(results[-1])
    return results


def _chunks(ids: Sequence[int], chunks: Sequence[int]) -> list[list[int]]:
    """The prompt cut at `chunks`, then the rest one token at a time."""
    parts, start = [], 0
    for size in chunks:
        parts.append(list(ids[start : start + size]))
        start += size
    return parts + [[i] for i in ids[start:]]


def assert_parity(
    folder: Path, vocab: int, chunk_sizes: Sequence[Sequence[int]], steps: int = DECODE_STEPS
) -> None:
    model, _ = mlx_lm_load(folder)
    decoder = load_decoder(folder, config=Config.read(folder))
    for chunks in chunk_sizes:
        mx.random.seed(7)
        ids = cast("list[int]", mx.random.randint(0, vocab, (sum(chunks) + steps,)).tolist())
        theirs = run_mlx_lm(model, ids, chunks)
        ours = run_ours(decoder, ids, chunks)
        assert len(theirs) == len(ours) == len(chunks) + steps
        for step, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert mx.array_equal(a, b), (
                f"chunks {chunks}: step {step} differs by {mx.abs(a - b).max().item()}"
            )
            assert not mx.isnan(a).any(), f"chunks {chunks}: step {step} is not a number"
    _assert_something_was_compared(decoder, ids, chunks, ours[len(chunks) - 1])


def _assert_something_was_compared(
    decoder: Decoder, ids: Sequence[int], chunks: Sequence[int], logits: mx.array
) -> None:
    """A model whose logits say little of what it read would be equal whatever it computed."""
    assert float(mx.std(logits[0, -1].astype(mx.float32))) > 0.05
    other = list(ids[: sum(chunks)])
    other[-3] = (other[-3] + 1) % decoder.spec.vocab_size
    changed = run_ours(decoder, other, chunks)[-1][0, -1] != logits[0, -1]
    assert float(changed.astype(mx.float32).mean()) > 0.5
