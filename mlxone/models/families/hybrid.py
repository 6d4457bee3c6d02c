"""Families some of whose layers are recurrent: which layer is what, and of which size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlxone.core.errors import UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.families.dense import GRANITE
from mlxone.models.families.family import SILU, Family
from mlxone.models.families.mixture import (
    CORRECTED,
    corrected_router,
    expert_counts,
    experts_key,
    softmax_experts,
    sparse_steps,
)
from mlxone.models.families.reading import (
    MAX_LAYERS,
    attention_spec,
    dense_layers,
    dense_spec,
    layer_count,
    stated_kinds,
    unsupported,
    whole,
    whole_numbers,
)
from mlxone.models.spec import (
    DenseSpec,
    ExpertsSpec,
    FeedForwardSpec,
    GatedDeltaSpec,
    Mamba2Spec,
    MixerSpec,
    RouterSpec,
    ShortConvSpec,
)

Recurrent = Callable[[Family, Config], MixerSpec]


def _mixers(
    family: Family, config: Config, attends: Sequence[bool], recurrent: Recurrent, *, rotated: bool = True
) -> list[MixerSpec | None]:
    """Layers of one kind share a spec; a kind that no layer has need not be in the config."""
    full = attention_spec(family, config, rotated=rotated) if any(attends) else None
    other = None if all(attends) else recurrent(family, config)
    return [full if attending else other for attending in attends]


def _known(family: Family, config: Config, key: str, *values: str) -> str:
    value: Any = config.get(key, values[0])
    if value not in values:
        raise unsupported(family, config, f"{key}={str(value)[:40]!r}")
    return str(value)


# Qwen 3-Next and 3.5 ---------------------------------------------------------------------------


def _qwen_mixers(family: Family, config: Config) -> list[MixerSpec | None]:
    """Without `layer_types` the last of every few layers attends."""
    count = layer_count(config)
    if "layer_types" in config:
        attends = stated_kinds(config, count, {"linear_attention": False, "full_attention": True})
    else:
        interval = config.count("full_attention_interval", 4)
        attends = [(index + 1) % interval == 0 for index in range(count)]
    return _mixers(family, config, attends, _gated_delta)


def _gated_delta(family: Family, config: Config) -> GatedDeltaSpec:
    key_heads, value_heads = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    if value_heads % key_heads:
        raise config.wrong("linear_num_value_heads", f"a multiple of linear_num_key_heads ({key_heads})")
    return GatedDeltaSpec(
        key_heads,
        value_heads,
        config.count("linear_key_head_dim"),
        config.count("linear_value_head_dim"),
        config.count("linear_conv_kernel_dim"),
        norm_eps=config.positive(family.norm_key),
        fused=family.name == "qwen3_next",
    )


def _qwen_feed_forwards(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    if not whole(config, experts_key(config), 0):
        return dense_layers(family, config)
    return sparse_steps(family, config, softmax_experts(config, shared=True))


# Nemotron-H ------------------------------------------------------------------------------------

# Mamba, attention, a feed-forward part, experts: one of them is a layer.
LETTERS = "M*-E"
LETTER_OF = {
    "linear_attention": "M", "mamba": "M", "conv": "M", "full_attention": "*", "attention": "*",
    "mlp": "-", "moe": "E",
}  # fmt: skip


def _nemotron_pattern(config: Config) -> str:
    """A letter a layer, or a list of letters; else a list of names under either of two keys."""
    keys = ("hybrid_override_pattern", "layers_block_type", "layer_types")
    key = next((key for key in keys if config.get(key)), keys[0])
    stated: Any = config.get(key)
    if not isinstance(stated, str | list) or not all(isinstance(name, str) for name in stated):
        raise config.wrong(key, "a word of M, *, - and E, or a list of layer types")
    names = stated if key == keys[0] else [LETTER_OF.get(name, name) for name in stated]
    for name in names:
        if name not in tuple(LETTERS):
            raise UnsupportedModel(f"{config.source}: layer type {name[:40]!r} is not supported")
    if not 1 <= len(names) <= MAX_LAYERS:
        raise config.wrong(key, f"1 to {MAX_LAYERS} layers")
    if whole(config, "num_hidden_layers", len(names)) != len(names):
        raise config.wrong("num_hidden_layers", f"{len(names)}, as many as {key} has")
    return "".join(names)


def _nemotron_mixers(family: Family, config: Config) -> list[MixerSpec | None]:
    pattern = _nemotron_pattern(config)
    if "attention_head_dim" in config:  # what the first ones call it
        config = config.with_defaults({"head_dim": config["attention_head_dim"]})
    attention = attention_spec(family, config, rotated=False) if "*" in pattern else None
    mamba = _nemotron_mamba(family, config) if "M" in pattern else None
    return [{"M": mamba, "*": attention}.get(letter) for letter in pattern]


def _nemotron_mamba(family: Family, config: Config) -> Mamba2Spec:
    _known(family, config, "mamba_hidden_act", *SILU)
    return _checked(config, Mamba2Spec(
        config.count("mamba_num_heads"), config.count("mamba_head_dim"), config.count("ssm_state_size"),
        config.count("n_groups"), config.count("conv_kernel"),
        conv_bias=config.flag("use_conv_bias"), proj_bias=config.flag("mamba_proj_bias"),
        norm_eps=config.positive(family.norm_key), norm_by_group=True,
        step_limits=_step_limits(config, (0.0, float("inf"))),
    ))  # fmt: skip


def _nemotron_feed_forwards(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    pattern = _nemotron_pattern(config)
    dense = dense_spec(family, config) if "-" in pattern else None
    experts = _nemotron_experts(family, config) if "E" in pattern else None
    return [{"-": dense, "E": experts}.get(letter) for letter in pattern]


def _nemotron_experts(family: Family, config: Config) -> ExpertsSpec:
    router = corrected_router(config, normal_eps=1e-20)
    shared = None
    if "n_shared_experts" in config:
        shared = dense_spec(family, config, "moe_shared_expert_intermediate_size")
    return ExpertsSpec(
        router,
        config.count("moe_intermediate_size"),
        family.activation,
        gated=False,
        latent=config.count("moe_latent_size") if "moe_latent_size" in config else None,
        latent_bias=config.flag("mlp_bias", False),
        shared=shared,
        as_input=True,
    )


def _checked(config: Config, spec: Mamba2Spec) -> Mamba2Spec:
    if spec.heads % spec.groups:
        key = "n_groups" if "n_groups" in config else "mamba_n_groups"
        raise config.wrong(key, f"a divisor of the {spec.heads} heads of Mamba")
    return spec


def _step_limits(config: Config, default: tuple[float, float]) -> tuple[float, float]:
    limits: Any = config.get("time_step_limit", default)
    numbers = isinstance(limits, list | tuple) and all(type(limit) in (int, float) for limit in limits)
    if not numbers or len(limits) != 2 or not 0 <= limits[0] <= limits[1]:
        raise config.wrong("time_step_limit", "two numbers, the second at least as large")
    return float(limits[0]), float(limits[1])


# Granite 4 -------------------------------------------------------------------------------------


# Whether such a layer attends, by its published name and by the one transformers 5 writes.
GRANITE_KINDS = {"mamba": False, "linear_attention": False, "attention": True, "full_attention": True}


def _granite_mixers(family: Family, config: Config) -> list[MixerSpec | None]:
    attends = stated_kinds(config, layer_count(config), GRANITE_KINDS)
    rotated = _known(family, config, "position_embedding_type", "rope", "nope") == "rope"
    return _mixers(family, config, attends, _granite_mamba, rotated=rotated)


def _granite_mamba(family: Family, config: Config) -> Mamba2Spec:
    return _checked(config, Mamba2Spec(
        config.count("mamba_n_heads"), config.count("mamba_d_head"), config.count("mamba_d_state"),
        config.count("mamba_n_groups"), config.count("mamba_d_conv"),
        conv_bias=config.flag("mamba_conv_bias", False), proj_bias=config.flag("mamba_proj_bias", False),
        norm_eps=config.positive(family.norm_key), norm_by_group=False,
        step_limits=_step_limits(config, (0.001, 100.0)),
    ))  # fmt: skip


def _granite_feed_forwards(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    count, experts = layer_count(config), whole(config, "num_local_experts", 0)
    if not experts:
        return [dense_spec(family, config)] * count
    router = RouterSpec(experts, config.count("num_experts_per_tok", most=experts), "chosen_softmax")
    shared = DenseSpec(config.count("shared_intermediate_size"), fused=True)
    return [ExpertsSpec(router, config.count("intermediate_size"), shared=shared, shared_beside=True)] * count


def _granite_names(config: Config) -> Mapping[str, str]:
    """In a mixture the shared expert's two tensors have names of their own."""
    if not whole(config, "num_local_experts", 0):
        return {}
    return {
        "experts": "block_sparse_moe", "router": "router.layer", "shared": "shared_mlp",
        "gate_up_proj": "input_linear", "down_proj": "output_linear",
        "expert_gate": "gate_proj", "expert_up": "up_proj", "expert_down": "down_proj",
    }  # fmt: skip


# LFM2 ------------------------------------------------------------------------------------------


def _lfm2_mixers(family: Family, config: Config) -> list[MixerSpec | None]:
    count = layer_count(config)
    if "full_attn_idxs" in config:
        full = whole_numbers(config, "full_attn_idxs")
        attends = [index in full for index in range(count)]
    else:
        attends = stated_kinds(config, count, {"conv": False, "full_attention": True})
    return _mixers(family, config, attends, _short_conv)


def _short_conv(family: Family, config: Config) -> ShortConvSpec:
    return ShortConvSpec(config.count("conv_L_cache"), config.flag("conv_bias", False))


def _lfm2_dense(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    """The size is two thirds of what is stated, and rounded up, unless the config says otherwise."""
    hidden = config.count("hidden_size")
    if config.count("block_dim", hidden) != hidden:
        raise config.wrong("block_dim", f"hidden_size ({hidden})")
    size = config.count("block_ff_dim" if "block_ff_dim" in config else "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim"):
        size = int(config.positive("block_ffn_dim_multiplier", 1.0) * int(2 * size / 3))
        multiple = config.count("block_multiple_of")
        size = multiple * -(-size // multiple)
    return [DenseSpec(size)] * layer_count(config)


def _lfm2_mixture(family: Family, config: Config) -> list[FeedForwardSpec | None]:
    """The first few layers are dense."""
    count = layer_count(config)
    dense = min(whole(config, "num_dense_layers"), count)
    if dense == count:
        return [dense_spec(family, config)] * count
    router = RouterSpec(
        **expert_counts(config, "num_experts"),
        scoring="sigmoid",
        precise=False,
        normalised=config.flag("norm_topk_prob"),
        normal_eps=1e-6,
        correction="expert_bias" if config.flag("use_expert_bias") else None,
        factor=config.number("routed_scaling_factor", 1.0),
    )
    experts = ExpertsSpec(router, config.count("moe_intermediate_size"))
    plain = [dense_spec(family, config)] if dense else []
    return [*plain * dense, *[experts] * (count - dense)]


# The rows --------------------------------------------------------------------------------------

_QWEN: dict[str, Any] = {
    "head_norm": True, "partial": True, "partial_rope": 0.25, "reads_layer_types": False,
    "mlp_bias": False, "attention": lambda config: {"gated": True},
    "mixers": _qwen_mixers, "feed_forwards": _qwen_feed_forwards,
    "unneeded": ("mtp.", "model.mtp.", "language_model.mtp."),
}  # fmt: skip
QWEN3_5 = ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text")  # 3.6 calls itself so, too
_LFM2_NAMES = {
    "final_norm": "model.embedding_norm", "mixer_norm": "operator_norm", "feed_forward_norm": "ffn_norm",
    "dense": "feed_forward", "experts": "feed_forward", "o_proj": "out_proj", "q_norm": "q_layernorm",
    "k_norm": "k_layernorm", "conv1d": "conv",
}  # fmt: skip
_LFM2: dict[str, Any] = {
    "defaults": {"rope_theta": 1_000_000.0, "tie_word_embeddings": True},
    "norm_key": "norm_eps", "head_norm": True, "qkv_bias": False, "out_bias": False, "mlp_bias": False,
    "head_dim_from_config": False, "mixers": _lfm2_mixers,
}  # fmt: skip

HYBRID: tuple[Family, ...] = (
    Family("qwen3_next", ("qwen3_next",), {"norm_topk_prob": True}, **_QWEN),
    # mlx-lm keeps the text model's tensors under this prefix even where there is nothing beside it.
    Family("qwen3_5", QWEN3_5, {"rms_norm_eps": 1e-6, "rope_theta": 100_000.0, "norm_topk_prob": True},
           prefix="language_model.", always_prefixed=True, inner_types=QWEN3_5, **_QWEN),
    Family("nemotron_h", ("nemotron_h",), {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0},
           only=CORRECTED,
           names={"embedding": "backbone.embeddings", "layers": "backbone.layers",
                  "final_norm": "backbone.norm_f", "mixer_norm": "norm", "feed_forward_norm": "norm",
                  "attention": "mixer", "mamba2": "mixer", "dense": "mixer", "experts": "mixer",
                  "shared": "shared_experts", "expert_up": "fc1", "expert_down": "fc2"},
           norm_key="layer_norm_epsilon", activation="relu2", activation_key="mlp_hidden_act",
           activation_names=("relu2",), gated=False, mixers=_nemotron_mixers,
           feed_forwards=_nemotron_feed_forwards, unneeded=("mtp.",)),
    Family("granitemoehybrid", ("granitemoehybrid",),
           {"rope_theta": 10000.0, "tie_word_embeddings": True}, names=_granite_names,
           mixers=_granite_mixers, feed_forwards=_granite_feed_forwards, **GRANITE),
    Family("lfm2", ("lfm2",), feed_forwards=_lfm2_dense,
           names={**_LFM2_NAMES, "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}, **_LFM2),
    Family("lfm2_moe", ("lfm2_moe",), feed_forwards=_lfm2_mixture, names=_LFM2_NAMES, **_LFM2),
)  # fmt: skip
