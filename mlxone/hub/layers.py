"""A config -> what each layer remembers. Only memory is read here; `models` reads what is computed.

Configs of families that cannot be run yet are read as well: their memory is the same arithmetic.
A key that is missing means what the family's publisher means by leaving it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from mlxone.core.facts import LayerFacts, LayerKind
from mlxone.formats.config import Config

MAX_LAYERS = 10_000
STATE_BYTES = 4  # recurrent states are float32; the convolution's part has the activations' type

# What `layer_types` calls a layer -> how it remembers.
NAMES: Mapping[str, LayerKind] = {
    "full_attention": "full", "attention": "full", "global_attention": "full",
    "sliding_attention": "sliding", "chunked_attention": "sliding", "local_attention": "sliding",
    "linear_attention": "recurrent", "recurrent": "recurrent", "mamba": "recurrent", "conv": "recurrent",
    "moe": "none", "mlp": "none",
}  # fmt: skip
LETTERS: Mapping[str, LayerKind] = {"*": "full", "M": "recurrent", "-": "none", "E": "none"}  # nemotron-h
# One layer in so many is full, the rest slides, where a config does not say.
SLIDING_PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma4": 6, "gemma4_text": 6,
                    "gemma4_unified": 6, "cohere2": 4, "olmo3": 4, "gpt_oss": 2}  # fmt: skip


def layers_of(
    config: Config, float_bytes: int, kv_bits: Mapping[int, tuple[int, int]]
) -> tuple[LayerFacts, ...]:
    """Layers that remember alike are counted together; `kv_bits` is layer -> (bits, group size)."""
    kinds = _kinds(config)
    kinds = _with_shared(config, kinds)
    found: Counter[LayerFacts] = Counter()
    for index, kind in enumerate(kinds):
        bits, group = kv_bits.get(index, (None, 64))
        found[_layer(config, kind, float_bytes, bits, group)] += 1
    return tuple(_counted(layer, count) for layer, count in found.items())


def _counted(layer: LayerFacts, count: int) -> LayerFacts:
    fields = {name: getattr(layer, name) for name in LayerFacts.__dataclass_fields__}
    return LayerFacts(**fields | {"count": count})


def _kinds(config: Config) -> list[LayerKind]:
    count = config.count("num_hidden_layers", most=MAX_LAYERS)
    stated = config.get("layer_types")
    if stated is None:
        stated = config.get("layers_block_type")
    if isinstance(stated, list) and len(stated) == count:
        return [NAMES.get(str(name), "full") for name in stated]
    letters = config.get("hybrid_override_pattern")
    if isinstance(letters, str) and len(letters) == count:
        return [LETTERS.get(letter, "full") for letter in letters]
    if "full_attention_interval" in config or "linear_num_value_heads" in config:
        every = config.count("full_attention_interval", 4)
        return ["full" if (i + 1) % every == 0 else "recurrent" for i in range(count)]
    pattern = config.get("sliding_window_pattern", SLIDING_PATTERNS.get(str(config.get("model_type"))))
    if type(pattern) is int and pattern > 1 and config.get("sliding_window"):
        return ["full" if (i + 1) % pattern == 0 else "sliding" for i in range(count)]
    return ["full"] * count


def _with_shared(config: Config, kinds: list[LayerKind]) -> list[LayerKind]:
    """The last layers may attend over what earlier ones keep, and keep nothing themselves."""
    shared = config.get("num_kv_shared_layers")
    if type(shared) is not int or not 0 < shared < len(kinds):
        return kinds
    keeping = kinds[: len(kinds) - shared]
    return keeping + ["shared" for _ in range(shared)]


def _layer(config: Config, kind: LayerKind, float_bytes: int, bits: int | None, group: int) -> LayerFacts:
    if kind == "recurrent":
        return LayerFacts(0, kind, state_bytes=_state_bytes(config, float_bytes))
    if kind in ("none", "shared"):
        return LayerFacts(0, kind)
    heads, key_dim, value_dim = _kept(config, kind)
    return LayerFacts(0, kind, heads, key_dim, value_dim, kv_bits=bits, kv_group=group)


def _kept(config: Config, kind: LayerKind) -> tuple[int, int, int]:
    """Key-value heads, and the dimensions of one key and one value."""
    if "kv_lora_rank" in config:  # latent attention keeps one compressed vector and its rotary part
        return 1, config.count("kv_lora_rank"), config.count("qk_rope_head_dim", 64)
    dim = head_dim(config)
    heads = config.count("num_key_value_heads", config.count("num_attention_heads"))
    if kind == "full":
        if config.get("attention_k_eq_v"):  # one projection for both, yet both are kept: only keys rotate
            heads = config.count("num_global_key_value_heads", heads)
        dim = global_head_dim(config)
    return heads, dim, config.count("v_head_dim", dim)


def head_dim(config: Config) -> int:
    heads = config.count("num_attention_heads")
    return config.count("head_dim", max(1, config.count("hidden_size") // heads))


def global_head_dim(config: Config) -> int:
    """Of full layers where a family gives them heads of their own size."""
    own = 512 if str(config.get("model_type")).startswith("gemma4") else head_dim(config)
    return config.count("global_head_dim", own)


def _state_bytes(config: Config, float_bytes: int) -> int:
    for names, formula in RECURRENT:
        if all(name in config for name in names):
            state, conv = formula(config)
            return state * STATE_BYTES + conv * float_bytes
    return 0


def _gated_delta(config: Config) -> tuple[int, int]:
    value_heads, key_heads = config.count("linear_num_value_heads"), config.count("linear_num_key_heads")
    key_dim, value_dim = config.count("linear_key_head_dim"), config.count("linear_value_head_dim")
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    return value_heads * key_dim * value_dim, (config.count("linear_conv_kernel_dim", 4) - 1) * channels


def _mamba2(config: Config) -> tuple[int, int]:
    names = next(names for names in MAMBA2 if names[0] in config)
    heads, dim, size = (config.count(name) for name in names[:3])
    groups, kernel = config.count(names[3], 1), config.count(names[4], 4)
    return heads * dim * size, (kernel - 1) * (heads * dim + 2 * groups * size)


def _short_conv(config: Config) -> tuple[int, int]:
    return 0, (config.count("conv_L_cache") - 1) * config.count("hidden_size")


# What nemotron-h and granite call the same: heads, the sizes of one and of its state, groups, convolution.
MAMBA2 = (
    ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"),
    ("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"),
)
RECURRENT: Sequence[tuple[tuple[str, ...], Callable[[Config], tuple[int, int]]]] = (
    (("linear_num_value_heads", "linear_num_key_heads"), _gated_delta),
    (("mamba_num_heads", "ssm_state_size"), _mamba2),
    (("mamba_n_heads", "mamba_d_state"), _mamba2),
    (("conv_L_cache",), _short_conv),
)

assert set(NAMES.values()) | set(LETTERS.values()) < set(get_args(LayerKind))
