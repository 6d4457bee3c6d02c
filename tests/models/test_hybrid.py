"""Families with recurrent layers: what their configs may say, and how answers of theirs are broken off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx, on_stream
from mlxone.core.errors import DamagedModel, MlxoneError, UnsupportedModel
from mlxone.core.words import Sampling
from mlxone.engine.loop import decode, prefill
from mlxone.engine.row import Row
from mlxone.formats.config import Config
from mlxone.models.changed import linears_of
from mlxone.models.decoder import Decoder
from mlxone.models.families.table import spec_of
from mlxone.models.loading import load_decoder
from mlxone.models.spec import DecoderSpec, DenseSpec, ExpertsSpec, Mamba2Spec
from tests.parity.test_recurrent import CONFIGS


def spec(name: str, **changes: Any) -> DecoderSpec:
    """A change to None takes the key away."""
    values = copy.deepcopy(CONFIGS[name])
    values.get("text_config", values).update(changes)
    return spec_of(Config(values, source="the config"))


def shown(found: DecoderSpec) -> list[str]:
    return [
        " ".join(type(part).__name__.removesuffix("Spec") for part in (a.mixer, a.feed_forward) if part)
        for a in found.layers
    ]


def test_which_layer_is_what():
    assert shown(spec("qwen3_5")) == ["GatedDelta Dense", "Attention Dense"] * 2
    stated = ["full_attention", *["linear_attention"] * 3]  # a list says more than an interval
    assert shown(spec("qwen3_5", layer_types=stated)) == ["Attention Dense", *["GatedDelta Dense"] * 3]
    assert shown(spec("qwen3_next-some-dense")) == [
        "GatedDelta Dense", "GatedDelta Experts", "GatedDelta Dense", "Attention Dense",
    ]  # fmt: skip
    assert shown(spec("nemotron_h-mixture")) == ["Mamba2", "Experts", "Attention", "Experts"]
    assert shown(spec("granitemoehybrid")) == [
        "Mamba2 Dense", "Attention Dense", "Mamba2 Dense", "Mamba2 Dense",
    ]  # fmt: skip
    assert shown(spec("lfm2_moe")) == [
        "ShortConv Dense", "Attention Experts", "ShortConv Experts", "Attention Experts",
    ]  # fmt: skip


def test_layers_by_the_names_that_transformers_writes():
    published = spec("granitemoehybrid")
    names = {"mamba": "linear_attention", "attention": "full_attention"}
    written = [names[kind] for kind in CONFIGS["granitemoehybrid"]["layer_types"]]
    assert spec("granitemoehybrid", layer_types=written) == published
    found = spec("qwen3_next-some-dense", num_experts=None, num_local_experts=8)
    assert found == spec("qwen3_next-some-dense", num_experts=8)


def test_what_the_first_nemotrons_call_the_size_of_a_head():
    assert spec("nemotron_h", head_dim=None, attention_head_dim=32) == spec("nemotron_h", head_dim=32)
    assert spec("nemotron_h", head_dim=32, attention_head_dim=64) == spec("nemotron_h", head_dim=32)


def test_layers_that_only_feed_forward_have_no_state():
    found = spec("nemotron_h")
    assert [layer.memory for layer in found.layers] == [0, None, 1, 2, 3, None]


@pytest.mark.parametrize(
    "changes",
    [
        {"hybrid_override_pattern": list("M-M*M-")},
        {"hybrid_override_pattern": None, "layers_block_type": ["mamba", "mlp", "mamba", "attention",
                                                                "linear_attention", "mlp"]},
        {"hybrid_override_pattern": None, "num_hidden_layers": None,
         "layer_types": ["conv", "mlp", "mamba", "full_attention", "mamba", "mlp"]},
    ],
)  # fmt: skip
def test_spellings_of_a_pattern(changes: dict[str, Any]):
    assert spec("nemotron_h", **changes) == spec("nemotron_h")


def test_a_mixture_in_fewer_dimensions():
    found = spec("nemotron_h-latent-groups").layers[1].feed_forward
    assert isinstance(found, ExpertsSpec)
    assert (found.latent, found.router.groups, found.router.chosen_groups) == (32, 4, 2)
    assert found.shared == DenseSpec(64, "relu2", gated=False)


def test_limits_of_a_step():
    limits = {
        name: next(a.mixer.step_limits for a in spec(name).layers if isinstance(a.mixer, Mamba2Spec))
        for name in ("nemotron_h", "nemotron_h-biases-limits", "granitemoehybrid")
    }
    assert list(limits.values()) == [(0, float("inf")), (0.01, 0.05), (0.001, 100)]


def test_a_size_that_is_adjusted():
    sizes = [spec(name).layers[0].feed_forward for name in ("lfm2", "lfm2-biases-plain-size")]
    assert sizes == [DenseSpec(128), DenseSpec(192)]
    assert spec("lfm2", block_ff_dim=200, block_ffn_dim_multiplier=1.5).layers[0].feed_forward == DenseSpec(
        224
    )


@pytest.mark.parametrize(
    ("name", "changes", "error", "named"),
    [
        ("qwen3_5", {"layer_types": ["mamba"] * 4}, UnsupportedModel, "layer type 'mamba'"),
        ("qwen3_5", {"linear_num_value_heads": 3}, DamagedModel, "linear_num_value_heads"),
        ("qwen3_5", {"hidden_act": "gelu"}, UnsupportedModel, "hidden_act='gelu'"),
        ("qwen3_next", {"num_experts": -1}, DamagedModel, "num_experts"),
        ("qwen3_next-some-dense", {"mlp_only_layers": 3}, DamagedModel, "mlp_only_layers"),
        ("nemotron_h", {"hybrid_override_pattern": "M-X*M-"}, UnsupportedModel, "layer type 'X'"),
        ("nemotron_h", {"hybrid_override_pattern": ["M-", "*"]}, UnsupportedModel, "layer type 'M-'"),
        ("nemotron_h", {"hybrid_override_pattern": 7}, DamagedModel, "hybrid_override_pattern"),
        ("nemotron_h", {"hybrid_override_pattern": None}, DamagedModel, "hybrid_override_pattern"),
        ("nemotron_h", {"num_hidden_layers": 4}, DamagedModel, "num_hidden_layers"),
        ("nemotron_h", {"mlp_hidden_act": "silu"}, UnsupportedModel, "mlp_hidden_act='silu'"),
        ("nemotron_h", {"mamba_hidden_act": "gelu"}, UnsupportedModel, "mamba_hidden_act='gelu'"),
        ("nemotron_h", {"n_groups": 3}, DamagedModel, "n_groups"),
        ("nemotron_h", {"time_step_limit": [0.1]}, DamagedModel, "time_step_limit"),
        ("nemotron_h", {"time_step_limit": [2, 1]}, DamagedModel, "time_step_limit"),
        ("nemotron_h", {"time_step_limit": 5}, DamagedModel, "time_step_limit"),
        ("granitemoehybrid", {"layer_types": ["conv"] * 4}, UnsupportedModel, "layer type 'conv'"),
        ("granitemoehybrid", {"position_embedding_type": "alibi"}, UnsupportedModel,
         "position_embedding_type='alibi'"),
        ("lfm2", {"block_dim": 32}, DamagedModel, "block_dim"),
        ("lfm2", {"layer_types": None}, DamagedModel, "layer_types"),
        ("lfm2_moe", {"num_dense_layers": "two"}, DamagedModel, "num_dense_layers"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_named(
    name: str, changes: dict[str, Any], error: type[MlxoneError], named: str
):
    with pytest.raises(error) as raised:
        spec(name, **changes)
    assert named in str(raised.value) and "the config" in str(raised.value)


# Loaded ----------------------------------------------------------------------------------------

NAMES = ("qwen3_5", "nemotron_h", "granitemoehybrid", "lfm2")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Decoder]:
    def load(name: str) -> Decoder:
        folder = tmp_path_factory.mktemp("model")
        save_random_model(folder, CONFIGS[name], dtype=mx.float32)
        return load_decoder(folder)

    return load


def test_adapters_find_every_linear(load: Callable[[str], Decoder]):
    inside = "language_model.model.layers.0.linear_attn."
    found = linears_of(load("qwen3_5"))
    names = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
    assert {inside + name for name in names} <= found.keys()
    assert {"backbone.layers.0.mixer.in_proj", "backbone.layers.1.mixer.up_proj"} <= linears_of(
        load("nemotron_h")
    ).keys()
    assert {"model.layers.0.conv.in_proj", "model.layers.0.conv.out_proj"} <= linears_of(load("lfm2")).keys()


def begun(decoder: Decoder) -> Row:
    row = Row(decoder, list(range(3, 40)), decoder.new_state(), Sampling(), seed=0)
    list(prefill(row, 16))
    return row


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_off_answer_leaves_a_state_of_exactly_what_was_fed(
    name: str, load: Callable[[str], Decoder]
):
    """The step in flight cannot be taken back, so its token is fed as well."""
    decoder = load(name)
    row = begun(decoder)
    answer = decode(row, 20)
    drawn = [next(answer).token for _ in range(5)]
    answer.close()
    assert row.fed == [*row.ids, *drawn] and row.state.offset == len(row.fed)
    again = decoder.new_state()
    with on_stream():
        for chunk in ([*row.fed[:16]], row.fed[16:32], row.fed[32:36], *([id] for id in row.fed[36:])):
            decoder.hidden(mx.array([chunk]), again)
            mx.eval(again.arrays())
        for mine, other in zip(row.state.layers, again.layers, strict=True):
            assert mine.offset == other.offset
        probe = mx.array([[5]])
        ours, theirs = (decoder.logits(decoder.hidden(probe, state)) for state in (row.state, again))
        assert mx.array_equal(ours, theirs)


class Broken(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_that_broke_off_is_forgotten_and_all_can_be_read_again(
    name: str, load: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
):
    decoder = load(name)
    expected = [drawn.token for drawn in decode(begun(decoder), 6)]
    row = begun(decoder)
    broken = decoder.blocks[-1]

    class Breaks:
        def __call__(self, *args: Any) -> mx.array:
            raise Broken

    decoder.blocks[-1] = Breaks()  # type: ignore[call-overload]
    with pytest.raises(Broken):
        list(decode(row, 6))
    assert (row.fed, row.state.offset, row.state.nbytes) == ([], 0, 0)
    decoder.blocks[-1] = broken
    again = Row(decoder, row.ids, row.state, Sampling(), seed=0)
    list(prefill(again, 16))
    assert [drawn.token for drawn in decode(again, 6)] == expected


def test_the_paths_of_a_saved_model(tmp_path: Path):
    """A tensor of another shape than the config says is named."""
    save_random_model(tmp_path, CONFIGS["qwen3_5"], dtype=mx.float32)
    arrays = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(arrays, dict)
    name = "language_model.model.layers.0.linear_attn.conv1d.weight"
    arrays[name] = mx.contiguous(arrays[name].swapaxes(1, 2))  # as transformers keeps it
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    with pytest.raises(DamagedModel, match=name):
        load_decoder(tmp_path)
