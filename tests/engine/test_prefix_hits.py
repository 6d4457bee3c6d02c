"""A hit gives the logits of a cold run bit for bit, where both read in the same chunks, and goes on so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mlxone.backend.arrays import mx, on_stream
from mlxone.kv.prefixes import PrefixStore
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.engine.tiny import SLIDING, save
from tests.models.tiny_families import CONFIGS

VOCAB = 250  # no model here has fewer
TEXT = [(11 * i * i + 5 * i + 3) % VOCAB for i in range(400)]
ROOMY = 10**9


# Recurrent, shared and latent states, beside attention's own.
OTHERS = ("qwen3_5", "gemma4-multimodal", "v3")


@pytest.fixture(scope="module", params=["plain", "mixed", "full first", *OTHERS])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """`mixed` has a window of 8: what is read here goes far past it."""
    if request.param == "plain":
        return load_decoder(request.getfixturevalue("plain_folder"))
    config = CONFIGS[request.param] if request.param in OTHERS else dict(SLIDING)
    if request.param == "full first":
        config |= {
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "sliding_attention"] + ["full_attention"],
        }
    return load_decoder(save(Path(tmp_path_factory.mktemp("model")), config, seed=3))


def run(decoder: Decoder, state: ModelState, ids: Sequence[int], chunks: Sequence[int]) -> list[mx.array]:
    """The logits of all chunks, then of what is left, token by token."""
    results, start = [], 0
    sizes = [*chunks, *[1] * (len(ids) - sum(chunks))]
    with on_stream():
        for size in sizes:
            part = mx.array([list(ids[start : start + size])])
            results.append(decoder.logits(decoder.hidden(part, state)))
            mx.eval(results[-1])
            start += size
    assert start == len(ids)
    return results


def assert_equal(one: Sequence[mx.array], other: Sequence[mx.array]) -> None:
    assert len(one) == len(other)
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        assert mx.array_equal(a, b), f"step {step} differs by {mx.abs(a - b).max().item()}"


# How the beginning is read, and then the rest, before forty single tokens.
CHUNKINGS = [
    ([5], [3]),
    ([3], [1, 1, 2]),
    ([8], [8]),
    ([64], [30]),
    ([40, 1, 40], [7, 1, 90]),
    ([9, 9], []),
    ([300], [50]),
    ([1, 1, 1], [2]),
]


@pytest.mark.parametrize(("first", "second"), CHUNKINGS)
def test_a_hit_at_a_border(decoder: Decoder, first: list[int], second: list[int]):
    store, border = PrefixStore(ROOMY), sum(first)
    ids = TEXT[: border + sum(second) + 40]
    cold = decoder.new_state()
    run(decoder, cold, ids[:border], first)
    store.put("a", ids[:border], cold)
    expected = run(decoder, cold, ids[border:], second)
    for _ in range(2):  # what was given out first leaves nothing behind
        warm = store.take("a", ids, decoder.new_state)
        assert warm.offset == border
        assert_equal(run(decoder, warm, ids[border:], second), expected)


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 21])
@pytest.mark.parametrize("second", [[], [1, 5], [30]])
def test_a_hit_at_the_end_of_an_answer(decoder: Decoder, steps: int, second: list[int]):
    """There the rings have turned; their order is part of the sum."""
    store, border = PrefixStore(ROOMY), 30 + steps
    ids, cold = TEXT[: border + sum(second) + 40], decoder.new_state()
    run(decoder, cold, ids[:30], [30])
    store.put("a", ids[:30], cold)
    run(decoder, cold, ids[30:border], [])
    store.put("a", ids[:border], cold)
    expected = run(decoder, cold, ids[border:], second)
    warm = store.take("a", ids, decoder.new_state)
    assert warm.offset == border
    assert_equal(run(decoder, warm, ids[border:], second), expected)


@pytest.mark.parametrize("known", [1, 5, 13, 63])
def test_a_hit_in_the_middle_of_an_edge(plain_folder: Path, known: int):
    """As the state itself would go on, had it forgotten the rest. And again when the edge is split there."""
    decoder, store = load_decoder(plain_folder), PrefixStore(ROOMY)
    cold = decoder.new_state()
    run(decoder, cold, TEXT[:64], [20, 44])
    store.put("a", TEXT[:64], cold)
    assert cold.rewind(known)
    other = [*TEXT[:known], 1, 2, 3, *TEXT[100:140]]
    expected = run(decoder, cold, other[known:], [3])
    for branch in (5, 6):
        warm = store.take("a", other, decoder.new_state)
        assert warm.offset == known
        assert_equal(run(decoder, warm, other[known:], [3]), expected)
        beside = store.take("a", [*TEXT[:known], branch], decoder.new_state)
        run(decoder, beside, [branch], [])
        assert store.put("a", [*TEXT[:known], branch], beside)  # now the edge is split there
    assert store.entries == 3


def test_a_window_that_is_not_full_goes_back_to_any_token(sliding_folder: Path):
    decoder, store = load_decoder(sliding_folder), PrefixStore(ROOMY)
    cold = decoder.new_state()
    run(decoder, cold, TEXT[:7], [7])
    store.put("a", TEXT[:7], cold)
    assert cold.rewind(4)
    other = [*TEXT[:4], *TEXT[100:150]]
    warm = store.take("a", other, decoder.new_state)
    assert warm.offset == 4
    assert_equal(run(decoder, warm, other[4:], [5]), run(decoder, cold, other[4:], [5]))


def test_past_the_window_the_best_checkpoint_before_serves(sliding_folder: Path):
    decoder, store = load_decoder(sliding_folder), PrefixStore(ROOMY)
    state = decoder.new_state()
    for start, end in ((0, 20), (20, 50), (50, 90)):
        run(decoder, state, TEXT[start:end], [end - start])
        store.put("a", TEXT[:end], state)
    for length, offset in ((19, 0), (20, 0), (21, 20), (50, 20), (51, 50), (89, 50), (91, 90), (300, 90)):
        assert store.take("a", TEXT[:length], decoder.new_state).offset == offset
    cold = decoder.new_state()
    run(decoder, cold, TEXT[:50], [20, 30])
    other = [*TEXT[:60], *TEXT[200:260]]
    warm = store.take("a", other, decoder.new_state)
    assert_equal(run(decoder, warm, other[50:], [20]), run(decoder, cold, other[50:], [20]))


def test_namespaces_do_not_meet(plain_folder: Path, sliding_folder: Path):
    store, decoders = PrefixStore(ROOMY), {"p": load_decoder(plain_folder), "s": load_decoder(sliding_folder)}
    for name, decoder in decoders.items():
        assert store.take(name, TEXT[:50], decoder.new_state).offset == 0
        state = decoder.new_state()
        run(decoder, state, TEXT[:40], [40])
        store.put(name, TEXT[:40], state)
    for name, decoder in decoders.items():
        warm = store.take(name, TEXT[:50], decoder.new_state)
        cold = decoder.new_state()
        run(decoder, cold, TEXT[:40], [40])
        assert_equal(run(decoder, warm, TEXT[40:90], [10]), run(decoder, cold, TEXT[40:90], [10]))
    store.forget("p")
    assert store.take("p", TEXT[:50], decoders["p"].new_state).offset == 0
    assert store.take("s", TEXT[:50], decoders["s"].new_state).offset == 40
