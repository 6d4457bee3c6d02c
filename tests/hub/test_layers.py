"""What each layer remembers, by hand from published configs, and as mlx-lm's own caches hold it."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, MlxoneError
from mlxone.core.facts import LayerFacts
from mlxone.formats.config import Config
from mlxone.hub.facts import text_config
from mlxone.hub.layers import MAX_LAYERS, layers_of

BF16, F32 = 2, 4
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def layers(kv_bits: dict[int, tuple[int, int]] | None = None, /, **values: Any) -> tuple[LayerFacts, ...]:
    """Of the llama with changes; a change to `...` takes the key away."""
    config = {k: v for k, v in (LLAMA | values).items() if v is not ...}
    return layers_of(text_config(Config(config, source="the config")), kv_bits or {})


def kinds(**values: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for layer in layers(**values):
        found[layer.kind] = found.get(layer.kind, 0) + layer.count
    return found


# Kinds --------------------------------------------------------------------------------------


def test_layers_that_remember_alike_are_one_entry():
    assert layers() == (LayerFacts(32, "full", 8, 4096 // 32, 4096 // 32),)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"layer_types": ["full_attention"] * 8 + ["sliding_attention"] * 24}, {"full": 8, "sliding": 24}),
        ({"layer_types": ["conv"] * 22 + ["full_attention"] * 10, "conv_L_cache": 3},
         {"recurrent": 22, "full": 10}),
        ({"layers_block_type": ["mamba"] * 28 + ["attention"] * 4}, {"recurrent": 28, "full": 4}),
        # Nemotron-H spells it in letters: M a recurrent layer, * attention, - and E no memory.
        ({"num_hidden_layers": 7, "hybrid_override_pattern": "M-M*-EM"},
         {"recurrent": 3, "none": 3, "full": 1}),
        # Every fourth is full: 32 / 4.
        ({"full_attention_interval": 4, "linear_num_value_heads": 8, "linear_num_key_heads": 8,
          "linear_key_head_dim": 64, "linear_value_head_dim": 64}, {"recurrent": 24, "full": 8}),
        # Gemma 3 leaves its pattern out: every sixth is full, so 5 of 32.
        ({"model_type": "gemma3_text", "sliding_window": 1024}, {"sliding": 27, "full": 5}),
        ({"model_type": "gemma3_text", "sliding_window": 1024, "sliding_window_pattern": 4},
         {"sliding": 24, "full": 8}),
        # exaone4 has it as a word, cohere2 and olmo3 leave it out, gpt-oss begins with a sliding layer.
        ({"model_type": "exaone4", "sliding_window": 4096, "sliding_window_pattern": "LLLG"},
         {"sliding": 24, "full": 8}),
        ({"model_type": "exaone4", "sliding_window": 4096}, {"full": 32}),
        ({"model_type": "cohere2"}, {"sliding": 24, "full": 8}),
        ({"model_type": "olmo3", "sliding_window": 4096}, {"sliding": 24, "full": 8}),
        ({"model_type": "gpt_oss"}, {"sliding": 16, "full": 16}),
        # These see everything, as in mlx-lm, whatever the config says.
        ({"model_type": "gemma2", "sliding_window": 4096, "layer_types": ["sliding_attention"] * 32},
         {"full": 32}),
        ({"model_type": "phi3", "sliding_window": 2047, "layer_types": ["sliding_attention"] * 32},
         {"full": 32}),
        ({"full_attn_idxs": [2, 5, 8], "conv_L_cache": 3}, {"recurrent": 29, "full": 3}),
        ({"num_hidden_layers": ..., "hybrid_override_pattern": list("M-M*-EM")},
         {"recurrent": 3, "none": 3, "full": 1}),
        # A bare window changes nothing, neither here nor in what computes.
        ({"model_type": "mistral", "sliding_window": 4096}, {"full": 32}),
        # A name nobody knows is taken for the kind that needs most.
        ({"layer_types": ["of_the_future"] * 32}, {"full": 32}),
        ({"layer_types": ["sliding_attention"] * 31, "sliding_window": 8}, {"full": 32}),
    ],
)  # fmt: skip
def test_kinds(values: dict[str, Any], expected: dict[str, int]):
    assert kinds(**values) == expected


def test_the_last_layers_may_share_what_earlier_ones_keep():
    types = ["sliding_attention", "full_attention"] * 16
    assert kinds(layer_types=types, sliding_window=512, num_kv_shared_layers=10) == {
        "sliding": 11,
        "full": 11,
        "shared": 10,
    }


def test_full_layers_with_heads_of_their_own_size():
    types = ["sliding_attention"] * 24 + ["full_attention"] * 8
    own: dict[str, Any] = {
        "layer_types": types,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 1,
    }
    sliding = LayerFacts(24, "sliding", 8, 256, 256)
    # Only with one projection for both do full layers have fewer heads, and still they keep both.
    assert layers(**own, attention_k_eq_v=True) == (sliding, LayerFacts(8, "full", 1, 512, 512))
    assert layers(**own) == (sliding, LayerFacts(8, "full", 8, 512, 512))
    no_shared = {"global_head_dim": ..., "num_kv_shared_layers": 0}
    assert layers(**own | no_shared, model_type="gemma4_text")[1].key_dim == 512
    assert layers(**own | {"global_head_dim": ...})[1].key_dim == 256


def test_heads_that_a_config_leaves_out():
    assert layers(num_key_value_heads=...) == (LayerFacts(32, "full", 32, 128, 128),)
    assert layers(head_dim=64) == (LayerFacts(32, "full", 8, 64, 64),)
    assert layers(v_head_dim=96) == (LayerFacts(32, "full", 8, 128, 96),)


def test_latent_attention_keeps_one_vector_and_its_rotary_part():
    sizes = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 96}
    # A chunk turns it into keys and values again, and has a second table of scores for the rotary part.
    short = LayerFacts(32, "full", 1, 512, 64, score_tables=2, unfolded=32 * (128 + 96))
    assert (
        layers(**sizes, model_type="deepseek_v3") == layers(**sizes, model_type="of_the_future") == (short,)
    )
    # mlx-lm computes these two over keys and values of every head, and so do we.
    long = LayerFacts(32, "full", 32, 128 + 64, 96)
    assert layers(**sizes, model_type="deepseek_v2") == layers(**sizes, model_type="minicpm3") == (long,)


def test_widths_of_kept_values_are_each_layers_own():
    found = layers({0: (8, 64), 5: (8, 64), 7: (4, 32), 99: (4, 64)})
    assert {(layer.count, layer.kv_bits, layer.kv_group) for layer in found} == {
        (2, 8, 64),
        (1, 4, 32),
        (29, None, 64),
    }


# Recurrent states, worked out by hand -------------------------------------------------------

GATED_DELTA = {  # Qwen3.5-4B
    "linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip
MAMBA2 = {  # Nemotron-H-8B
    "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4,
}  # fmt: skip
GRANITE = {  # Granite 4.0 H Tiny, the same under other names
    "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_d_conv": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "state", "channels", "more"),
    [
        # A float32 matrix for each of 32 value heads; three tokens of q, k (16 heads each) and v.
        (GATED_DELTA, 32 * 128 * 128 * F32, 2 * 16 * 128 + 32 * 128, {"by_token": True}),
        # A float32 matrix for each head; three tokens of x (128 x 64) and of B and C (8 groups x 128 each).
        (MAMBA2, 128 * 64 * 128 * F32, 128 * 64 + 2 * 8 * 128, {"pair_heads": 128}),
        (GRANITE, 48 * 64 * 128 * F32, 48 * 64 + 2 * 1 * 128, {"pair_heads": 48}),
        ({"conv_L_cache": 4, "hidden_size": 2048}, 0, 2048, {}),  # LFM2: only the convolution's tokens
    ],
)
def test_recurrent_states_have_one_size(
    values: dict[str, Any], state: int, channels: int, more: dict[str, Any]
):
    # "linear_attention", "mamba" and "conv" are one kind: what they keep follows from the keys.
    types = ["linear_attention"] * 31 + ["full_attention"]
    expected = LayerFacts(
        31, "recurrent", state_bytes=state, tail=3 * channels, channels=channels, **more
    )  # fmt: skip
    assert layers(**values, layer_types=types)[0] == expected


# mlx-lm's caches ----------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
    "rope_theta": 1e4, "tie_word_embeddings": True,
}  # fmt: skip
QWEN35 = TINY | {
    "model_type": "qwen3_5_text", "head_dim": 32, "full_attention_interval": 2, "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4, "rope_parameters": {"type": "default", "rope_theta": 1e4,
    "partial_rotary_factor": 0.25, "mrope_section": [1, 1, 1]},
}  # fmt: skip
GEMMA4 = TINY | {
    "model_type": "gemma4_text", "head_dim": 16, "global_head_dim": 32, "sliding_window": 512,
    "num_kv_shared_layers": 2, "attention_k_eq_v": True, "num_global_key_value_heads": 1,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 0,
}  # fmt: skip
PEERS: dict[str, dict[str, Any]] = {
    "qwen3_5": {"model_type": "qwen3_5", "text_config": QWEN35},
    "gemma4": {"model_type": "gemma4", "vocab_size": 96, "text_config": GEMMA4},
    "gemma3": {"model_type": "gemma3", "vocab_size": 96, "text_config": TINY | {
        "model_type": "gemma3_text", "head_dim": 16, "num_hidden_layers": 7, "sliding_window": 512}},
    "nemotron_h": TINY | {
        "model_type": "nemotron_h", "attention_bias": False, "mamba_num_heads": 4, "mamba_head_dim": 16,
        "mamba_proj_bias": False, "ssm_state_size": 32, "conv_kernel": 4, "n_groups": 2, "mlp_bias": False,
        "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True, "head_dim": 16,
        "hybrid_override_pattern": "M*M-"},
    "granitemoehybrid": TINY | {
        "model_type": "granitemoehybrid", "layer_types": ["mamba", "attention"] * 2, "attention_bias": False,
        "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "logits_scaling": 1.0,
        "residual_multiplier": 1.0, "shared_intermediate_size": 64, "mamba_n_heads": 8, "mamba_d_head": 16,
        "mamba_proj_bias": False, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_groups": 2,
        "mamba_conv_bias": True, "position_embedding_type": "rope"},
    "lfm2": TINY | {
        "model_type": "lfm2", "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 64,
        "block_ff_dim": 128, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"] * 2},
    "deepseek_v3": TINY | {
        "model_type": "deepseek_v3", "kv_lora_rank": 32, "q_lora_rank": 16, "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16, "v_head_dim": 16, "first_k_dense_replace": 4, "moe_intermediate_size": 32,
        "rope_scaling": {"type": "yarn", "factor": 1.0, "mscale_all_dim": 0}},
}  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_mlx_lm_keeps_as_many_bytes(name: str):
    config, length = PEERS[name], 256  # a length at which no buffer has room to spare
    module = importlib.import_module(f"mlx_lm.models.{name}")
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, length), mx.int32), cache=cache))
    held = [value for layer in cache for value in dict(tree_flatten(layer.state)).values()]
    kept = [array for array in held if isinstance(array, mx.array)]
    found = layers_of(text_config(Config(config)), {})
    assert sum(array.nbytes for array in kept) == sum(
        layer.count
        * (
            layer.state_bytes
            + layer.tail * BF16
            + length * layer.kv_heads * (layer.key_dim + layer.value_dim) * BF16
        )
        for layer in found
    )


# Nonsense -----------------------------------------------------------------------------------

HUGE = 10**400
odd = st.sampled_from(
    [None, True, False, 0, -1, 1, 2, 7, 64, 2**31 - 1, 2**31, HUGE, -HUGE, 0.0, 0.5, 2.0, 1e300, math.nan,
     math.inf, "", "4", "full_attention", "\ud800", [], {}, [[]], ["mamba"] * 4, ["conv"] * 4, [None] * 4,
     [{}, [], 1, HUGE], "M*-E", "????", {"a": 1}]
)  # fmt: skip
KEYS = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "global_head_dim", "v_head_dim", "num_global_key_value_heads", "attention_k_eq_v",
    "layer_types", "layers_block_type", "hybrid_override_pattern", "full_attention_interval",
    "sliding_window", "sliding_window_pattern", "per_layer_config", "full_attn_idxs",
    "qk_nope_head_dim", "num_kv_shared_layers", "kv_lora_rank", "qk_rope_head_dim",
    *GATED_DELTA, *MAMBA2, *GRANITE, "conv_L_cache",
)  # fmt: skip


@given(
    values=st.dictionaries(st.sampled_from(KEYS), odd),
    kv_bits=st.dictionaries(st.integers(), st.just((4, 64))),
)
def test_any_config_gives_layers_or_our_own_error(
    values: dict[str, Any], kv_bits: dict[int, tuple[int, int]]
):
    config = LLAMA | {"num_hidden_layers": 4} | values
    try:
        found = layers_of(Config(config), kv_bits)
    except MlxoneError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return
    assert sum(layer.count for layer in found) == config["num_hidden_layers"] <= MAX_LAYERS
    numbers = [
        (layer.kv_heads, layer.key_dim, layer.value_dim, layer.state_bytes, layer.tail) for layer in found
    ]
    assert all(type(n) is int and n >= 0 for row in numbers for n in row)


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "32", MAX_LAYERS + 1, HUGE])
def test_the_number_of_layers_is_bounded(count: Any):
    with pytest.raises(DamagedModel, match="the config: num_hidden_layers must be"):
        layers(num_hidden_layers=count)


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "hidden_size"])
def test_what_cannot_be_left_out_is_named(key: str):
    with pytest.raises(DamagedModel, match=f"the config: {key} is missing"):
        layers(**{key: ...})
