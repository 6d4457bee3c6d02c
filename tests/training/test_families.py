"""Every family whose layers attend over keys and values of their own trains; the others say why not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxone.backend.arrays import lock, mx, on_stream  # before mlx.nn: it brings the BLAS

# isort: split
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

import mlxone
from bench.random_models import save_random_model
from mlxone.core.errors import UnsupportedModel
from mlxone.models.adapter_files import AdapterFile, write_adapter
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder
from mlxone.models.families.table import FAMILIES
from mlxone.models.loading import load_decoder
from mlxone.models.spec import AttentionSpec, LayerSpec
from mlxone.training import attention, head
from mlxone.training.fuse import fuse
from mlxone.training.gradients import measure, pair_logprobs
from mlxone.training.learnable import why_not
from mlxone.training.losses import Dpo, Sft
from mlxone.training.states import by_length, ropes_of
from mlxone.training.trainable import Params, Trainable
from tests.engine.tiny import VOCAB
from tests.models.checkpoints import refused
from tests.service import rig
from tests.training import runs, tiny
from tests.training.families import BASE, CONFIGS, GEMMA4, decoder, folder_of
from tests.training.tiny import CLOSE, added, apart

BATCH = tiny.samples(9, 9, 14, 6, prompt=3)
PAIRS = tiny.pairs((7, 4, 5), (3, 9, 1))
STEP = 1e-3
# As docs/training.md says; all else is trained.
STAYS = (
    "switch_mlp.", "experts.", "e_score_correction_bias", "sinks", "embed_q", "unembed_out", "layernorm.bias",
    "layernorm.norms.", "layer_scalar",
)  # fmt: skip
SPARSE = ("gemma2", "gemma3", "gemma4", "granite", "cohere2", "qwen3_moe", "gpt_oss", "deepseek_v3")


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """mlx-lm compiles parts of its models; on a CPU that calls a C++ compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@cache
def of_mlx_lm(name: str) -> Any:
    return load_model(folder_of(name))[0]


def logprobs(logits: mx.array, ids: tuple[int, ...], prompt: int) -> np.ndarray:
    rows = np.array(logits, dtype=np.float64)
    rows = rows - rows.max(-1, keepdims=True)
    rows = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    return np.array([rows[i - 1, ids[i]] for i in range(max(prompt, 1), len(ids))])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_mlx_lms(name: str):
    """Of whole texts, and of pairs whose prompt is read once."""
    model, theirs = decoder(name), of_mlx_lm(name)

    def score(ids: tuple[int, ...], prompt: int) -> np.ndarray:
        return logprobs(theirs(mx.array([ids[:-1]]))[0], ids, prompt)

    with lock, on_stream():
        expected = -sum(score(s.ids, s.prompt).sum() for s in BATCH)
        assert tiny.number(measure(model, None, {}, BATCH, Sft()).total) == pytest.approx(expected, rel=1e-5)
        sums = [[score(p.prompt + end, len(p.prompt)).sum() for end in (p.chosen, p.rejected)] for p in PAIRS]
        assert np.allclose(pair_logprobs(model, None, {}, PAIRS), sums, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_mlx_lms(name: str):
    """Of all weights and norms that type full trains, through mlx-lm's own modules."""
    model, theirs = decoder(name), of_mlx_lm(name)

    def loss(params: Any) -> mx.array:
        theirs.update(params)
        total = mx.array(0.0)
        for sample in BATCH:
            logits = theirs(mx.array([sample.ids[:-1]]))[0, max(sample.prompt, 1) - 1 :]
            targets = mx.array(sample.ids[max(sample.prompt, 1) :])
            total = total + nn.losses.cross_entropy(logits, targets, reduction="sum")
        return total

    theirs.train()  # else experts are sorted in a way that has no gradient
    with lock, on_stream():
        expected: Any = dict(tree_flatten(mx.grad(loss)(theirs.parameters())))
        trainable = Trainable(model, kind="full")
        _, slopes = tiny.gradients(model, trainable, trainable.start(0), BATCH)
        assert apart({n: expected[n] for n in slopes}, slopes) < 1e-4
    left = {name for name in expected if ".layers." in name} - slopes.keys()
    assert not {name for name in left if not any(part in name for part in STAYS)}


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite_differences(name: str, kind: Any):
    model = decoder(name, every_expert=True)
    with lock, on_stream():
        trainable = Trainable(model, kind=kind, rank=4)
        values = tiny.params(trainable)
        _, slopes = tiny.gradients(model, trainable, values, BATCH)
        assert slopes.keys() == values.keys()

        def loss(parameter: str, way: mx.array, by: float) -> float:
            moved = values | {parameter: values[parameter] + by * way}
            return tiny.number(measure(model, trainable, moved, BATCH, Sft()).total)

        for parameter in (n for n in values if n.startswith(f"{model.spec.layer_path(1)}.")):
            length = mx.linalg.norm(slopes[parameter]).item()
            way = slopes[parameter] / length
            difference = (loss(parameter, way, STEP) - loss(parameter, way, -STEP)) / (2 * STEP)
            # The loss is a float32 of about 150: its last digits limit what a difference can say.
            assert difference == pytest.approx(length, rel=2e-2, abs=0.1), parameter


@pytest.mark.parametrize("name", CONFIGS)
def test_one_row_is_its_samples_one_by_one(name: str):
    model = decoder(name)
    trainable = Trainable(model, rank=4)
    values = tiny.params(trainable)
    loss, slopes = tiny.gradients(model, trainable, values, BATCH)
    alone = [tiny.gradients(model, trainable, values, [sample]) for sample in BATCH]
    assert loss == pytest.approx(sum(part for part, _ in alone), rel=CLOSE)
    assert apart(slopes, added([part for _, part in alone])) < 3 * CLOSE


@pytest.mark.parametrize("name", SPARSE)
def test_no_way_of_saving_memory_changes_them(name: str, monkeypatch: pytest.MonkeyPatch):
    model = decoder(name)
    trainable = Trainable(model, rank=4)
    values = tiny.params(trainable)
    loss, slopes = tiny.gradients(model, trainable, values, PAIRS, Dpo(0.3), references=[(-30.0, -31.0)] * 2)
    monkeypatch.setattr(head, "chunk_rows", lambda vocabulary, cpu: 4)
    monkeypatch.setattr(attention, "LARGE_BYTES", 0)
    monkeypatch.setattr(attention, "block_rows", lambda heads, keys: 3)
    for segment in (0, 2):
        again, other = tiny.gradients(
            model, trainable, values, PAIRS, Dpo(0.3), references=[(-30.0, -31.0)] * 2, segment=segment
        )
        assert again == pytest.approx(loss, rel=CLOSE) and apart(slopes, other) < 3 * CLOSE


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("name", SPARSE)
def test_what_is_trained_is_what_is_served(name: str, kind: Any):
    model = decoder(name)
    with lock, on_stream():
        trainable = Trainable(model, kind=kind, rank=4)
        values: Params = tiny.params(trainable)
        served = changed_decoder(model, trainable.changes(values))
        expected = 0.0
        for sample in BATCH:
            hidden = served.hidden(mx.array([sample.ids[:-1]]), served.new_state())
            expected -= logprobs(served.logits(hidden)[0], sample.ids, sample.prompt).sum()
        found = tiny.number(measure(model, trainable, values, BATCH, Sft()).total)
        assert math.isfinite(found) and found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "router"),
    [("mixtral", "gate"), ("gpt_oss", "router"), ("qwen3_moe", "gate"), ("deepseek_v3", "gate")],
)
def test_what_chooses_experts_is_adapted_when_it_is_named(name: str, router: str):
    model = decoder(name)
    everything = Trainable(model).paths
    assert not any(path.endswith(f".{router}") for path in everything) and everything
    named = Trainable(model, modules=[router]).paths
    assert named and all(path.endswith(f".{router}") for path in named)
    assert set(named) < set(Trainable(model, kind="full").paths)


@pytest.mark.parametrize("name", ["gemma3", "cohere2", "phi3", "deepseek_v3", "mistral3"])
def test_whole_weights_are_what_checkpoints_hold(name: str, tmp_path: Path):
    """A norm that adds one to what is stored is trained, mounted and fused as what is stored."""
    folder, model = folder_of(name), decoder(name)
    with lock, on_stream():
        trainable = Trainable(model, kind="full", layers=1)
        values = tiny.params(trainable)
        changed = changed_decoder(model, trainable.changes(values))
    write_adapter(tmp_path / "adapter", values, AdapterFile("full", 0, 0.0, layers=1))
    ids = mx.array([BATCH[0].ids])
    with lock, on_stream():
        expected = changed.logits(changed.hidden(ids, changed.new_state()))
        own = Adapter.read(tmp_path / "adapter").changes(model)
        mounted = changed_decoder(model, own)
        assert mx.array_equal(mounted.logits(mounted.hidden(ids, mounted.new_state())), expected)
    fused = fuse(folder, tmp_path / "adapter", tmp_path / "fused").path
    assert mx.allclose(load_model(fused)[0](ids), expected, atol=1e-4)
    assert not mx.allclose(of_mlx_lm(name)(ids), expected, atol=1e-2)


@pytest.mark.parametrize(("name", "kind"), [("gemma3", "lora"), ("gpt_oss", "dora"), ("qwen3_moe", "lora")])
def test_a_whole_run(name: str, kind: str, tmp_path: Path):
    """And mlx-lm takes the adapter that it leaves."""
    config = {**BASE, **CONFIGS[name], "vocab_size": VOCAB}
    model = rig.write_folder(tmp_path / "model", config)
    watch = runs.Watch()
    result = runs.run(model, tmp_path / "a", watch, type=kind, iters=6, lr=1e-2, rank=4, steps_per_report=1)
    assert result.reason == "done" and result.train_loss < watch.losses[1]
    base = load_decoder(model)
    with lock, on_stream():
        changed = changed_decoder(base, Adapter.read(tmp_path / "a").changes(base))
        ours = changed.logits(changed.hidden(mx.array([BATCH[0].ids]), changed.new_state()))
    theirs = load_model(model)[0]
    load_adapters(theirs, str(tmp_path / "a"))
    assert mx.allclose(theirs(mx.array([BATCH[0].ids])), ours, rtol=1e-4, atol=1e-4)


# What cannot be trained ----------------------------------------------------------------------

LFM2 = {
    "model_type": "lfm2", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 64,
    "block_multiple_of": 32, "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 192, "layer_types": ["conv", "full_attention", "conv"],
}  # fmt: skip
MAMBA = {
    "model_type": "granitemoehybrid", "attention_bias": False, "embedding_multiplier": 4.0,
    "attention_multiplier": 0.2, "logits_scaling": 3.0, "residual_multiplier": 0.4,
    "layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_proj_bias": False, "mamba_d_state": 32, "mamba_d_conv": 4, "mamba_n_groups": 1,
    "mamba_conv_bias": True, "position_embedding_type": "nope",
}  # fmt: skip
PER_LAYER = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 32}
NOT_YET: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("recurrent layers", LFM2),
    "granitemoehybrid": ("recurrent layers", MAMBA),
    "gemma4": ("an input of its own for each layer", {**GEMMA4, **PER_LAYER}),
}


def test_only_ropes_that_look_at_the_length_keep_prompts_apart():
    (rope, *_) = ropes_of(decoder("hunyuan").spec)
    assert rope.scaling["type"] == "dynamic" and not by_length(rope)
    assert by_length(replace(rope, scaling={"rope_type": "dynamic", "factor": 2.0}))


def test_the_documentation_names_every_family():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    can, cannot = text.partition("## Models\n")[2].partition("\n## ")[0].split("Not yet:")
    assert not [family.name for family in FAMILIES if f"`{family.name}`" not in can + cannot]
    assert not [name for name in CONFIGS if f"`{decoder(name).spec.family}`" not in can]
    assert not [name for name in NOT_YET if name != "gemma4" and f"`{name}`" not in cannot]


def test_the_shortest_way_to_say_no():
    shared = AttentionSpec(4, 2, 16, 0.25, None, shared=True)
    layers = (LayerSpec(AttentionSpec(4, 2, 16, 0.25, None), None, 0), LayerSpec(shared, None, 0))
    assert why_not(replace(decoder("gemma").spec, layers=layers)) == "layers that share keys and values"
    assert not any(why_not(decoder(name).spec) for name in CONFIGS)


@pytest.mark.parametrize("name", NOT_YET)
def test_a_model_that_cannot_be_trained_says_why(name: str, tmp_path: Path):
    why, config = NOT_YET[name]
    save_random_model(tmp_path, {**BASE, **config}, dtype=mx.float32)
    model = load_decoder(tmp_path)
    with refused(UnsupportedModel, f"{model.spec.family} with {why} cannot be trained yet"):
        Trainable(model)


@pytest.mark.parametrize("name", NOT_YET)
def test_and_can_be_measured(name: str, tmp_path: Path):
    save_random_model(tmp_path, {**BASE, **NOT_YET[name][1]}, dtype=mx.float32)
    model, theirs = load_decoder(tmp_path), load_model(tmp_path)[0]

    def score(ids: tuple[int, ...], prompt: int) -> np.ndarray:
        return logprobs(theirs(mx.array([ids[:-1]]))[0], ids, prompt)

    with lock, on_stream():
        expected = -sum(score(s.ids, s.prompt).sum() for s in BATCH)
        assert tiny.number(measure(model, None, {}, BATCH, Sft()).total) == pytest.approx(expected, rel=1e-4)
        sums = [[score(p.prompt + end, len(p.prompt)).sum() for end in (p.chosen, p.rejected)] for p in PAIRS]
        assert np.allclose(pair_logprobs(model, None, {}, PAIRS), sums, rtol=1e-4)


def test_a_run_says_it_before_anything_is_written(tmp_path: Path):
    model = rig.write_folder(tmp_path / "model", {**BASE, **LFM2, "vocab_size": VOCAB})
    with refused(UnsupportedModel, "lfm2 with recurrent layers cannot be trained yet"):
        runs.run(model, tmp_path / "a", iters=6)
    assert not (tmp_path / "a").exists()
    found = mlxone.evaluate(model, runs.ROWS)
    assert math.isfinite(found.loss) and found.tokens
