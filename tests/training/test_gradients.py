"""Gradients are finite differences', and no way of saving memory or time changes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.models import layers, loading
from mlxone.models.changed import changed_decoder, leaves_of
from mlxone.models.changes import LowRank
from mlxone.training import attention, gradients, head, products
from mlxone.training.adapted import thinned
from mlxone.training.gradients import loss_and_gradients, measure, pair_logprobs
from mlxone.training.losses import Dpo, Orpo, Sft
from mlxone.training.samples import Pair, Sample
from mlxone.training.trainable import Params, Trainable
from tests.models import checkpoints
from tests.training import tiny
from tests.training.tiny import CLOSE, added, apart

KINDS: list[Any] = ["lora", "dora", "full"]
BATCH = tiny.samples(9, 9, 14, 6, prompt=3)
PAIRS = tiny.pairs((7, 4, 5), (3, 9, 1), (12, 6, 6))
REFERENCES = [(-30.0, -31.0), (-40.0, -6.0), (-20.0, -25.0)]
STEP = 2e-3


def base_loss(model: Any, trainable: Trainable, values: Params) -> float:
    with lock, on_stream():
        return tiny.number(measure(model, trainable, values, BATCH, Sft()).total)


def moved(trainable: Trainable, values: Params, name: str, way: mx.array, by: float) -> Params:
    """The parameters with one of them a little further; under DoRA the norm that divides stands still, as
    it does for the gradient."""
    other = values | {name: values[name] + by * way}
    path, _, part = name.rpartition(".")
    if trainable.kind == "dora" and part != "m":
        weight = next(leaves_of(b)[path] for b in trainable.blocks if path in leaves_of(b)).dense()

        def norm(p: Params) -> mx.array:
            delta = trainable.scale * (p[f"{path}.lora_a"] @ p[f"{path}.lora_b"]).T
            return mx.linalg.norm(weight + delta, axis=1)

        other[f"{path}.m"] = values[f"{path}.m"] * norm(other) / norm(values)
    return other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen2", "sliding"])
def test_gradients_are_finite_differences(name: str, kind: Any):
    model = tiny.decoder(name)
    with lock, on_stream():
        trainable = Trainable(model, kind=kind, rank=4)
        values = tiny.params(trainable)
        _, slopes = tiny.gradients(model, trainable, values, BATCH)
        assert slopes.keys() == values.keys()
        layer = "model.layers.1."
        for place, parameter in enumerate(n for n in values if n.startswith(layer)):
            # Along the gradient, where the difference is largest, and a random way beside it.
            way = slopes[parameter] / mx.linalg.norm(slopes[parameter])
            way = way + 0.3 * mx.random.normal(way.shape, key=mx.random.key(place)) / math.sqrt(way.size)
            ahead, behind = (
                base_loss(model, trainable, moved(trainable, values, parameter, way, by))
                for by in (STEP, -STEP)
            )
            expected = (slopes[parameter] * way).sum().item()
            # The loss is a float32 of about 100: its last digits limit what a difference can say.
            assert (ahead - behind) / (2 * STEP) == pytest.approx(expected, rel=2e-2, abs=0.05), parameter


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segment", [1, 2, 3, 8])
@pytest.mark.parametrize("objective", [Sft(), Dpo(0.3), Orpo(0.2)])
def test_computing_once_more_changes_nothing(kind: Any, segment: int, objective: Any):
    model, batch = tiny.decoder("sliding"), BATCH if isinstance(objective, Sft) else PAIRS
    references = REFERENCES if isinstance(objective, Dpo) else None
    trainable = Trainable(model, kind=kind, rank=4)
    values = tiny.params(trainable)
    loss, slopes = tiny.gradients(model, trainable, values, batch, objective, references=references)
    again, other = tiny.gradients(
        model, trainable, values, batch, objective, references=references, segment=segment
    )
    assert again == pytest.approx(loss, rel=CLOSE)
    assert apart(slopes, other) < CLOSE


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_layers_before_the_first_trained_one_are_not_asked(monkeypatch: pytest.MonkeyPatch, segment: int):
    model = tiny.decoder()
    trainable = Trainable(model, layers=1, modules=["v_proj"])
    values = tiny.params(trainable)
    passed: list[int] = []
    through = gradients._Step.through

    def watched(self: Any, blocks: Any, layers: range, x: mx.array, changes: Any) -> mx.array:
        passed.extend(layers)
        return through(self, blocks, layers, x, changes)

    with monkeypatch.context() as patch:
        patch.setattr(gradients._Step, "through", watched)
        _, slopes = tiny.gradients(model, trainable, values, BATCH, segment=segment)
    assert passed == [0, 1, 2] + ([2] if segment else [])
    assert set(slopes) == {f"model.layers.2.self_attn.v_proj.lora_{half}" for half in "ab"}
    whole = Trainable(model)
    everything = tiny.params(whole)
    with lock, on_stream():
        zero = {n: a if n in values else mx.zeros_like(a) for n, a in (everything | values).items()}
    _, all_slopes = tiny.gradients(model, whole, zero, BATCH)
    assert apart(slopes, {n: all_slopes[n] for n in slopes}) < CLOSE


@pytest.mark.parametrize("name", ["llama", "sliding"])
@pytest.mark.parametrize("sizes", [(9, 14, 6), (9, 9, 9), (9, 9, 14, 14, 6)])
def test_one_row_is_its_samples_one_by_one(name: str, sizes: tuple[int, ...]):
    model = tiny.decoder(name)
    trainable = Trainable(model, rank=4)
    values, batch = tiny.params(trainable), tiny.samples(*sizes, prompt=2)
    loss, slopes = tiny.gradients(model, trainable, values, batch)
    alone = [tiny.gradients(model, trainable, values, [sample]) for sample in batch]
    assert loss == pytest.approx(sum(part for part, _ in alone), rel=CLOSE)
    assert apart(slopes, added([part for _, part in alone])) < CLOSE


@pytest.mark.parametrize("name", ["llama", "sliding"])
@pytest.mark.parametrize("segment", [0, 1])
def test_a_shared_prompt_is_two_whole_samples(name: str, segment: int):
    model = tiny.decoder(name)
    trainable = Trainable(model, rank=4)
    values, objective = tiny.params(trainable), Dpo(0.3)
    loss, slopes = tiny.gradients(model, trainable, values, PAIRS, objective, segment=segment)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "by_length", lambda rope: True)  # such a model's prompts are not shared
        apart_loss, other = tiny.gradients(model, trainable, values, PAIRS, objective)
    assert loss == pytest.approx(apart_loss, rel=CLOSE)
    assert apart(slopes, other) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, kind: Any):
    model = tiny.decoder("sliding")
    trainable = Trainable(model, kind=kind, rank=4)
    values = tiny.params(trainable)
    _, slopes = tiny.gradients(model, trainable, values, BATCH)
    monkeypatch.setattr(head, "chunk_rows", lambda vocabulary, cpu: 4)
    monkeypatch.setattr(attention, "LARGE_BYTES", 0)
    monkeypatch.setattr(attention, "block_rows", lambda heads, keys: 3)
    for segment in (0, 2):
        _, other = tiny.gradients(model, trainable, values, BATCH, segment=segment)
        assert apart(slopes, other) < CLOSE


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_unpacked_products_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Any):
    """Joined and packed weights, as on CUDA: the base's products go through dense matrices and back."""
    monkeypatch.setenv("MLXONE_CPU", "packed")
    monkeypatch.setattr(layers, "on_cpu", lambda: False)  # so that they are joined
    monkeypatch.setattr(products, "MANY_ROWS", 1)
    config = tiny.QWEN3 | {"num_hidden_layers": 2, "quantization": {"group_size": 32, "bits": 4}}
    model = tiny.load(tmp_path, config, lambda path: (32, 4, "affine"))
    found = []
    for cuda in (False, True):
        monkeypatch.setattr(products, "on_cuda", lambda cuda=cuda: cuda)
        trainable = Trainable(model, kind=kind, rank=4, ranks={"model.layers.1.self_attn.k_proj": 6})
        unpacked = [leaf for b in trainable.blocks for leaf in leaves_of(b).values()]
        assert {type(leaf) is products.Unpacking for leaf in unpacked} == {cuda}
        values = tiny.params(trainable)
        found += [tiny.gradients(model, trainable, values, BATCH, segment=segment) for segment in (0, 1)]
    with lock, on_stream():
        served = changed_decoder(model, trainable.changes(values))
        loss_of_served = tiny.number(measure(served, None, {}, BATCH, Sft()).total)
    assert found[0][0] == pytest.approx(loss_of_served, rel=CLOSE)
    for loss, slopes in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=CLOSE)
        assert apart(found[0][1], slopes) < CLOSE


def test_many_rows_are_what_dense_products_are_for():
    assert products.dense_products(True, 64)
    assert not products.dense_products(True, 63) and not products.dense_products(False, 4096)


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_dropout_comes_from_its_key(segment: int):
    model = tiny.decoder()
    trainable = Trainable(model, rank=4, dropout=0.4)
    values = tiny.params(trainable)

    def with_key(number: int | None, segment: int = segment) -> tuple[float, Params]:
        key = None if number is None else mx.random.key(number)
        return tiny.gradients(model, trainable, values, BATCH, segment=segment, key=key)

    (loss, slopes), (again, same) = with_key(1), with_key(1, segment=0)
    assert again == pytest.approx(loss, rel=CLOSE) and apart(slopes, same) < CLOSE
    losses = [with_key(number)[0] for number in (None, 1, 2)]
    assert len({round(value, 2) for value in losses}) == 3
    assert losses[0] == pytest.approx(base_loss(model, trainable, values), rel=CLOSE)


def test_dropout_keeps_the_mean():
    with lock, on_stream():
        half = LowRank(mx.zeros((4, 1)), mx.zeros((1, 4)), 1.0, 0.25, mx.random.key(1))
        out = thinned(mx.ones((10_000, 4), mx.bfloat16), half)
        assert out.dtype == mx.bfloat16
        assert (out == 0).mean().item() == pytest.approx(0.25, abs=0.01)
        assert out.astype(mx.float32).mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "sliding"])
def test_what_is_trained_is_what_is_served(name: str, kind: Any):
    """The loss is that of the changed model's own logits, text by text, in float64; for pairs, too."""
    model = tiny.decoder(name)
    with lock, on_stream():
        trainable = Trainable(model, kind=kind, rank=4)
        values = tiny.params(trainable)
        served = changed_decoder(model, trainable.changes(values))

        def score(ids: tuple[int, ...], prompt: int) -> np.ndarray:
            logits = served.logits(served.hidden(mx.array([ids[:-1]]), served.new_state()))[0]
            rows = np.array(logits, dtype=np.float64)
            logprobs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
            return np.array([logprobs[i - 1, ids[i]] for i in range(max(prompt, 1), len(ids))])

        expected = -sum(score(s.ids, s.prompt).sum() for s in BATCH)
        assert base_loss(model, trainable, values) == pytest.approx(expected, rel=1e-5)

        answers = [[score(p.prompt + end, len(p.prompt)) for end in (p.chosen, p.rejected)] for p in PAIRS]
        sums = np.array([[part.sum() for part in pair] for pair in answers])
        assert np.allclose(pair_logprobs(model, trainable, values, PAIRS), sums, rtol=1e-5)
        margins = 0.3 * ((sums - REFERENCES) @ [1, -1])
        found = measure(model, trainable, values, PAIRS, Dpo(0.3), references=REFERENCES)
        assert found.total.item() == pytest.approx(np.log1p(np.exp(-margins)).sum(), rel=1e-4)
        shares = np.exp([[part.mean() for part in pair] for pair in answers])
        odds = np.log(shares / (1 - shares)) @ [1, -1]
        losses = 0.2 * np.log1p(np.exp(-odds)) - np.log(shares[:, 0])
        found = measure(model, trainable, values, PAIRS, Orpo(0.2))
        assert found.total.item() == pytest.approx(losses.sum(), rel=1e-5)


def test_without_a_trainable_the_base_is_measured():
    model = tiny.decoder()
    with lock, on_stream():
        trainable = Trainable(model)
        of_base = measure(model, None, {}, BATCH, Sft()).total.item()
        assert of_base == pytest.approx(base_loss(model, trainable, trainable.start(0)), rel=1e-6)
        assert of_base != pytest.approx(base_loss(model, trainable, tiny.params(trainable)), rel=1e-3)


def test_a_rope_that_looks_at_the_length_sees_each_text_by_itself(tmp_path: Path):
    scaling = {"type": "dynamic", "factor": 4.0}
    model = tiny.load(tmp_path, tiny.LLAMA | {"rope_scaling": scaling, "max_position_embeddings": 4})
    trainable = Trainable(model, rank=4)
    values = tiny.params(trainable)
    cases: list[tuple[Any, Any]] = [([Sample(s.ids) for s in BATCH], Sft()), (PAIRS, Dpo())]
    for batch, objective in cases:
        loss, slopes = tiny.gradients(model, trainable, values, batch, objective)
        alone = [tiny.gradients(model, trainable, values, [one], objective) for one in batch]
        assert loss == pytest.approx(sum(part for part, _ in alone), rel=CLOSE)
        assert apart(slopes, added([part for _, part in alone])) < CLOSE


@pytest.mark.parametrize(
    "pair", [Pair((1, 2), (3,), (4,)), Pair((1,), (2, 3), (4,)), Pair((), (1, 2), (3, 4))]
)
def test_the_shortest_pairs_have_gradients(pair: Pair):
    model = tiny.decoder()
    trainable = Trainable(model, rank=4)
    loss, slopes = tiny.gradients(model, trainable, tiny.params(trainable), [pair], Dpo())
    with lock, on_stream():
        assert math.isfinite(loss) and all(mx.isfinite(slope).all().item() for slope in slopes.values())


def test_less_is_kept_the_shorter_the_segments():
    model = tiny.decoder()
    with lock, on_stream():
        trainable = Trainable(model, rank=4)
        values, batch = tiny.params(trainable), [Sample(tiny.ids(1500, n)) for n in range(2)]

        def peak(segment: int) -> int:
            mx.clear_cache()
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            found, slopes = loss_and_gradients(model, trainable, values, batch, Sft(), segment=segment)
            mx.eval(found.total, slopes)
            return mx.get_peak_memory() - before

        everything, two, one = (peak(segment) for segment in (0, 2, 1))
        assert one < two < everything
        assert one < 0.6 * everything


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segment", [0, 1])
def test_nothing_is_widened_on_account_of_the_masters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Any, segment: int
):
    monkeypatch.setenv("MLXONE_CPU", "native")
    arrays = checkpoints.tensors(tiny.LLAMA, mx.bfloat16)
    model = loading.load_decoder(checkpoints.save(tmp_path, tiny.LLAMA, arrays))
    entered: list[mx.Dtype] = []
    through = gradients._Step.through

    def watched(self: Any, blocks: Any, layers: range, x: mx.array, changes: Any) -> mx.array:
        out = through(self, blocks, layers, x, changes)
        entered.extend((x.dtype, out.dtype))
        return out

    monkeypatch.setattr(gradients._Step, "through", watched)
    trainable = Trainable(model, kind=kind, rank=4, dropout=0.1)
    with lock, on_stream():
        values = tiny.params(trainable)
        _, slopes = tiny.gradients(model, trainable, values, BATCH, segment=segment, key=mx.random.key(0))
    assert set(entered) == {mx.bfloat16}
    assert {array.dtype for array in (values | slopes).values()} == {mx.float32}
