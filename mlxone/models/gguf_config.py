"""A GGUF header's numbers as a snapshot's `config.json` and `generation_config.json`."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.formats.gguf import Header, shown
from mlxone.models.gguf_tokenizer import Vocabulary

GROUP = 32  # every GGUF block that MLX keeps packed holds 32 weights


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that make up a llama."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_base: float
    rope_factor: float
    norm_epsilon: float


def read_sizes(header: Header) -> Sizes:
    _refuse_unknown(header)
    heads, hidden = _whole(header, "attention.head_count"), _whole(header, "embedding_length")
    kv_heads = _whole(header, "attention.head_count_kv", heads)
    head_dim = _whole(header, "attention.key_length", max(1, hidden // heads))
    if heads % kv_heads or head_dim % 2:
        raise DamagedModel(f"{heads} heads of {head_dim} cannot share {kv_heads} key heads")
    for key in ("rope.dimension_count", "attention.value_length"):
        if _whole(header, key, head_dim) != head_dim:
            raise UnsupportedModel(f"llama.{key} is not the size of a head, {head_dim}")
    return Sizes(
        layers=_whole(header, "block_count"),
        hidden=hidden,
        feed_forward=_whole(header, "feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=_vocabulary(header),
        context=_whole(header, "context_length"),
        rope_base=_real(header, "rope.freq_base", 10_000.0),
        rope_factor=_real(header, "rope.scaling.factor", 1.0),
        norm_epsilon=_real(header, "attention.layer_norm_rms_epsilon"),
    )


def _refuse_unknown(header: Header) -> None:
    scaling = header.values.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise UnsupportedModel(f"rope scaling {shown(scaling)} cannot be converted")
    if scaling == "none" and header.values.get("llama.rope.scaling.factor", 1.0) != 1.0:
        raise UnsupportedModel("llama.rope.scaling.factor without a scaling type cannot be converted")
    if header.values.get("llama.expert_count", 0):
        raise UnsupportedModel("a mixture of experts cannot be converted")
    if any(t.name == "rope_freqs.weight" for t in header.tensors):
        raise UnsupportedModel("rope_freqs.weight (Llama 3's rope scaling) cannot be converted")


def _whole(header: Header, key: str, default: int | None = None) -> int:
    value = header.values.get(f"llama.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise DamagedModel(f"llama.{key} is {shown(value)}")
    return value


def _real(header: Header, key: str, default: float | None = None) -> float:
    value = header.values.get(f"llama.{key}", default)
    if value is None or isinstance(value, bool | str) or not 0 < value < math.inf:
        raise DamagedModel(f"llama.{key} is {shown(value)}")
    return _shortest(value)


def _vocabulary(header: Header) -> int:
    embedding = next((t for t in header.tensors if t.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2:
        raise DamagedModel("tensor 'token_embd.weight' is missing or not a matrix")
    return embedding.shape[0]


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 and not 9.999999747378752e-06."""
    single = struct.pack("<f", value)
    return next(x for x in (float(f"{value:.{n}g}") for n in range(1, 18)) if struct.pack("<f", x) == single)


def config_json(
    sizes: Sizes, vocabulary: Vocabulary, modules: Mapping[str, int | None], dtype: str
) -> dict[str, Any]:
    """`modules` maps the path of each matrix to its bits, None where it is not quantized."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.feed_forward,
        "max_position_embeddings": sizes.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": sizes.norm_epsilon,
        "rope_theta": sizes.rope_base,
        "tie_word_embeddings": "lm_head" not in modules,
        "torch_dtype": dtype,
        "vocab_size": sizes.vocabulary,
    }
    if sizes.rope_factor != 1:
        config["rope_scaling"] = {"type": "linear", "factor": sizes.rope_factor}
    if any(modules.values()):
        config["quantization"] = config["quantization_config"] = quantization(modules)
    return config | _ids(vocabulary)


def generation_config_json(vocabulary: Vocabulary) -> dict[str, Any]:
    return _ids(vocabulary)


def quantization(modules: Mapping[str, int | None]) -> dict[str, Any]:
    """The commonest bits for all, and an entry of its own for every module that differs."""
    common = Counter(bits for bits in modules.values() if bits).most_common(1)[0][0]
    table: dict[str, Any] = {"group_size": GROUP, "bits": common}
    for path, bits in modules.items():
        if bits != common:
            table[path] = {"group_size": GROUP, "bits": bits} if bits else False
    return table


def _ids(vocabulary: Vocabulary) -> dict[str, Any]:
    eos = vocabulary.eos_ids
    ids: dict[str, Any] = {
        "bos_token_id": vocabulary.bos,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": vocabulary.padding,
    }
    return {name: value for name, value in ids.items() if value is not None}
