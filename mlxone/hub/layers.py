"""A config -> what each layer remembers, and what else of it decides memory.

`models/families` reads what is computed. Configs of families that cannot be run yet are read here as
well: their memory is the same arithmetic. `habits` knows what a missing key means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from mlxone.core.facts import LayerFacts, LayerKind
from mlxone.formats.config import Config
from mlxone.hub import habits

MAX_LAYERS = 10_000
FLOAT32 = 4  # bytes; recurrent states have it whatever the model's type

# What `layer_types` calls a layer -> how it remembers.
NAMES: Mapping[str, LayerKind] = {
    "full_attention": "full", "attention": "full", "global_attention": "full",
    "sliding_attention": "sliding", "chunked_attention": "sliding", "local_attention": "sliding",
    "linear_attention": "recurrent", "recurrent": "recurrent", "mamba": "recurrent", "conv": "recurrent",
    "moe": "none", "mlp": "none",
}  # fmt: skip
LETTERS: Mapping[str, LayerKind] = {"*": "full", "M": "recurrent", "-": "none", "E": "none"}  # nemotron-h


def layers_of(config: Config, kv_bits: Mapping[int, tuple[int, int]]) -> tuple[LayerFacts, ...]:
    """Layers that remember alike are counted together; `kv_bits` is layer -> (bits, group size)."""
    kinds = _kinds(config)
    kinds = _with_shared(config, kinds)
    found: Counter[LayerFacts] = Counter()
    for index, kind in enumerate(kinds):
        bits, group = kv_bits.get(index, (None, 64))
        found[_layer(config, kind, index, bits, group)] += 1
    return tuple(replace(layer, count=count) for layer, count in found.items())


def _kinds(config: Config) -> list[LayerKind]:
    letters, stated = nemotron_letters(config), config.get("layer_types", config.get("layers_block_type"))
    one_each = letters or stated
    if isinstance(one_each, str | list) and one_each:
        config = config.with_defaults({"num_hidden_layers": len(one_each)})
    count = config.count("num_hidden_layers", most=MAX_LAYERS)
    if len(letters) == count:
        return [LETTERS.get(letter, "full") for letter in letters]
    if _type(config) in habits.ALL_FULL:
        return ["full"] * count
    full = config.get("full_attn_idxs")
    if isinstance(full, list):
        return ["full" if i in full else "recurrent" for i in range(count)]
    if isinstance(stated, list) and len(stated) == count:
        return [NAMES.get(str(name), "full") for name in stated]
    if "full_attention_interval" in config or "linear_num_value_heads" in config:
        every = config.count("full_attention_interval", 4)
        return ["full" if (i + 1) % every == 0 else "recurrent" for i in range(count)]
    return _by_pattern(config, count)


def nemotron_letters(config: Config) -> Sequence[str]:
    """A word or a list, one letter a layer; it comes before lists of names."""
    stated = config.get("hybrid_override_pattern")
    if isinstance(stated, list) and all(isinstance(letter, str) for letter in stated):
        return stated
    return stated if isinstance(stated, str) else ""


def _by_pattern(config: Config, count: int) -> list[LayerKind]:
    pattern = config.get("sliding_window_pattern")
    if _type(config) not in habits.BY_PATTERN or not config.get("sliding_window"):
        return ["full"] * count
    if isinstance(pattern, str) and pattern:
        return ["sliding" if pattern[i % len(pattern)] == "L" else "full" for i in range(count)]
    if type(pattern) is not int or pattern < 1:
        return ["full"] * count
    return ["full" if (i + 1) % pattern == 0 else "sliding" for i in range(count)]


def _with_shared(config: Config, kinds: list[LayerKind]) -> list[LayerKind]:
    """The last layers may attend over what earlier ones keep, and keep nothing themselves."""
    shared = config.get("num_kv_shared_layers")
    if type(shared) is not int or not 0 < shared < len(kinds) or config.is_null("num_kv_shared_layers"):
        return kinds
    keeping = kinds[: len(kinds) - shared]
    return keeping + ["shared" for _ in range(shared)]


def _layer(config: Config, kind: LayerKind, index: int, bits: int | None, group: int) -> LayerFacts:
    if kind == "recurrent":
        return _recurrent(config)
    if kind in ("none", "shared"):
        return LayerFacts(0, kind)
    heads, key_dim, value_dim = _kept(config, kind, index)
    return LayerFacts(
        0, kind, heads, key_dim, value_dim, kv_bits=bits, kv_group=group, score_tables=_tables(config),
        unfolded=_unfolded(config),
    )  # fmt: skip


def _kept(config: Config, kind: LayerKind, index: int) -> tuple[int, int, int]:
    """Key-value heads, and the dimensions of one key and one value."""
    if _is_latent(config):
        rope_dim = config.count("qk_rope_head_dim", 64)
        if _is_absorbed(config):  # one compressed vector and its rotary part
            return 1, config.count("kv_lora_rank"), rope_dim
        return (
            config.count("num_attention_heads"),
            head_dim(config),
            config.count("v_head_dim", _plain(config)),
        )
    dim = head_dim(config)
    heads = config.count("num_key_value_heads", config.count("num_attention_heads"))
    if "per_layer_config" in config:  # as transformers 5 writes what differs layer by layer
        by_layer = Config(config.section("per_layer_config"), source=f"{config.source}: per_layer_config")
        own = Config(by_layer.section(str(index)), source=f"{by_layer.source}.{index}")
        heads, dim = own.count("num_key_value_heads", heads), own.count("head_dim", dim)
    elif kind == "full":
        if config.get("attention_k_eq_v"):  # one projection for both, yet both are kept: only keys rotate
            heads = config.count("num_global_key_value_heads", heads)
        dim = global_head_dim(config)
    return heads, dim, config.count("v_head_dim", dim)


def head_dim(config: Config) -> int:
    """Of a query and a key."""
    plain = _plain(config)
    if _is_latent(config):
        return config.count("qk_nope_head_dim", plain) + config.count("qk_rope_head_dim", 64)
    if _type(config) == "nemotron_h":  # what its first ones call it
        plain = config.count("attention_head_dim", plain)
    return plain if _type(config) in habits.PLAIN_HEADS else config.count("head_dim", plain)


def global_head_dim(config: Config) -> int:
    """Of full layers where a family gives them heads of their own size."""
    own = head_dim(config)
    return own if config.is_null("global_head_dim") else config.count("global_head_dim", own)


def _plain(config: Config) -> int:
    return max(1, config.count("hidden_size") // config.count("num_attention_heads"))


def _is_latent(config: Config) -> bool:
    return "kv_lora_rank" in config


def _is_absorbed(config: Config) -> bool:
    return _is_latent(config) and _type(config) not in habits.EXPANDED


def _tables(config: Config) -> int:
    """How many tables of scores stand there at once, where attention writes them down."""
    if _is_absorbed(config):  # what the rotary parts add is a table of its own
        return 2
    return 3 if _type(config) in habits.SINKS else 1


def _unfolded(config: Config) -> int:
    """Elements that reading a chunk makes anew of each token that is kept."""
    if not _is_absorbed(config):
        return 0
    each = config.count("qk_nope_head_dim", _plain(config)) + config.count("v_head_dim", _plain(config))
    return config.count("num_attention_heads") * each


def _type(config: Config) -> str:
    return str(config.get("model_type"))


# Recurrent layers ----------------------------------------------------------------------------


def _recurrent(config: Config) -> LayerFacts:
    for names, layer in RECURRENT:
        if all(name in config for name in names):
            return layer(config)
    return LayerFacts(0, "recurrent")


def _gated_delta(config: Config) -> LayerFacts:
    value_heads, key_heads = config.count("linear_num_value_heads"), config.count("linear_num_key_heads")
    key_dim, value_dim = config.count("linear_key_head_dim"), config.count("linear_value_head_dim")
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    state = value_heads * key_dim * value_dim * FLOAT32
    tail = (config.count("linear_conv_kernel_dim", 4) - 1) * channels
    return LayerFacts(0, "recurrent", state_bytes=state, tail=tail, channels=channels, by_token=True)


def _mamba2(config: Config) -> LayerFacts:
    names = next(names for names in MAMBA2 if names[0] in config)
    heads, dim, size = (config.count(name) for name in names[:3])
    groups, kernel = config.count(names[3], 1), config.count(names[4], 4)
    channels = heads * dim + 2 * groups * size
    return LayerFacts(
        0, "recurrent", state_bytes=heads * dim * size * FLOAT32, tail=(kernel - 1) * channels,
        channels=channels, pair_heads=heads,
    )  # fmt: skip


def _short_conv(config: Config) -> LayerFacts:
    channels = config.count("hidden_size")
    return LayerFacts(0, "recurrent", tail=(config.count("conv_L_cache") - 1) * channels, channels=channels)


# What nemotron-h and granite call the same: heads, the sizes of one and of its state, groups, convolution.
MAMBA2 = (
    ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"),
    ("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"),
)
RECURRENT: Sequence[tuple[tuple[str, ...], Callable[[Config], LayerFacts]]] = (
    (("linear_num_value_heads", "linear_num_key_heads"), _gated_delta),
    (("mamba_num_heads", "ssm_state_size"), _mamba2),
    (("mamba_n_heads", "mamba_d_state"), _mamba2),
    (("conv_L_cache",), _short_conv),
)

assert set(NAMES.values()) | set(LETTERS.values()) < set(get_args(LayerKind))
