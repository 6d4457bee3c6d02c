"""Models of true size that take kilobytes: real configs and headers, and holes where the weights would be.

The shapes are the published ones, in the layout of mlx-community's conversions. A test that needs a
model which no test machine could hold writes one of these.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shapes = dict[str, tuple[int, ...]]
GROUP = 64
SHARD_BYTES = 5 * 10**9


def _every(count: int, every: int, one: str, other: str) -> list[str]:
    return [one if (i + 1) % every == 0 else other for i in range(count)]


def _gemma4(hidden: int, layers: int, inner: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    text = {
        "model_type": "gemma4_text", "hidden_size": hidden, "num_hidden_layers": layers,
        "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": 256, "global_head_dim": 512, "sliding_window": 1024, "vocab_size": 262_144,
        "max_position_embeddings": 262_144, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        "layer_types": _every(layers, 6, "full_attention", "sliding_attention"), **more,
    }  # fmt: skip
    return {"model_type": "gemma4", "text_config": text, "vision_config": {"hidden_size": 1152}}


def _qwen35(hidden: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_5_text", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256,
        "full_attention_interval": 4, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "vocab_size": 248_320, "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6, **more,
    }  # fmt: skip
    return {"model_type": "qwen3_5", "text_config": text, "vision_config": {"hidden_size": 1024}}


CONFIGS: dict[str, dict[str, Any]] = {
    "gemma-4-e4b": _gemma4(
        2560, 42, 10_240, 8, 2, sliding_window=512, num_kv_shared_layers=18, hidden_size_per_layer_input=256,
        vocab_size_per_layer_input=262_144, max_position_embeddings=131_072, use_double_wide_mlp=False,
    ),
    "gemma-4-12B": _gemma4(
        3840, 48, 15_360, 16, 8, attention_k_eq_v=True, num_global_key_value_heads=1, num_kv_shared_layers=0,
    ),
    "gemma-4-26B-A4B": _gemma4(
        2816, 30, 2112, 16, 8, attention_k_eq_v=True, num_global_key_value_heads=2, num_kv_shared_layers=0,
        enable_moe_block=True, num_experts=128, top_k_experts=8, moe_intermediate_size=704,
    ),
    "Qwen3.5-4B": _qwen35(2560, 32, 16, 4, intermediate_size=9216, tie_word_embeddings=True),
    "Qwen3.6-35B-A3B": _qwen35(
        2048, 40, 16, 2, num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512,
        shared_expert_intermediate_size=512, tie_word_embeddings=False,
    ) | {"model_type": "qwen3_5_moe"},
    "Llama-3.3-70B": {
        "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28_672,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256,
        "max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "rope_theta": 500_000.0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = {"U32": 4, "F32": 4, "BF16": 2}[self.dtype]
        for n in self.shape:
            size *= n
        return size


def write_model(folder: Path, name: str, bits: int | None = 4, **changes: Any) -> Path:
    """`bits=None` writes bf16 weights. `changes` go into the (text) config."""
    config = json.loads(json.dumps(CONFIGS[name]))
    config.get("text_config", config).update(changes)
    if bits is not None:
        config["quantization"] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    write_weights(folder, packed(shapes(config), bits))
    return folder


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """In shards of at most 5 GB, as published ones are."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    if len(shards) == 1:
        write_shard(folder / "model.safetensors", shards[0])
        return
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(names, shards, strict=True):
        write_shard(folder / file, shard)
    weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [end, end := end + tensor.nbytes],
        }
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)  # a hole: no byte of it is on the disk


def packed(plain: Shapes, bits: int | None) -> dict[str, Tensor]:
    """Matrices (and stacks of them) in MLX's packed layout, towers and the rest as they are."""
    found: dict[str, Tensor] = {}
    for name, shape in plain.items():
        plain_too = name.startswith("vision") or "conv1d" in name
        if bits is None or plain_too or len(shape) < 2 or not name.endswith(".weight"):
            found[name] = Tensor("BF16", shape)
            continue
        base, width = name.removesuffix(".weight"), shape[-1]
        found[name] = Tensor("U32", (*shape[:-1], width * bits // 32))
        for part in ("scales", "biases"):
            found[f"{base}.{part}"] = Tensor("BF16", (*shape[:-1], width // GROUP))
    return found


def shapes(config: Mapping[str, Any]) -> Shapes:
    text = config.get("text_config", config)
    prefix = "language_model." if "text_config" in config else ""
    hidden, vocab = text["hidden_size"], text["vocab_size"]
    found: Shapes = {f"{prefix}model.embed_tokens.weight": (vocab, hidden)}
    for index in range(text["num_hidden_layers"]):
        for name, shape in _layer(text, index):
            found[f"{prefix}model.layers.{index}.{name}"] = shape
    found |= {f"{prefix}{name}": shape for name, shape in _beside(text)}
    if "vision_config" in config:
        inner = config["vision_config"]["hidden_size"]
        found |= {f"vision_tower.blocks.{i}.mlp.weight": (4 * inner, inner) for i in range(8)}
    return found


def _beside(text: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = text["hidden_size"]
    yield "model.norm.weight", (hidden,)
    if not text["tie_word_embeddings"]:
        yield "lm_head.weight", (text["vocab_size"], hidden)
    each = text.get("hidden_size_per_layer_input")
    if each:
        width = text["num_hidden_layers"] * each
        yield "model.embed_tokens_per_layer.weight", (text["vocab_size_per_layer_input"], width)
        yield "model.per_layer_model_projection.weight", (width, hidden)


def _layer(text: Mapping[str, Any], index: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = text["hidden_size"]
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    interval = text.get("full_attention_interval")
    if interval and (index + 1) % interval:
        yield from _gated_delta(text)
    else:
        yield from _attention(text, index)
    yield from _feed_forward(text)


def _attention(text: Mapping[str, Any], index: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads, kv_heads = text["hidden_size"], text["num_attention_heads"], text["num_key_value_heads"]
    dim, full = text["head_dim"], text.get("layer_types", ["full_attention"] * 999)[index] == "full_attention"
    one_for_both = text.get("attention_k_eq_v") and full
    if full:
        dim = text.get("global_head_dim", dim)
    if one_for_both:
        kv_heads = text["num_global_key_value_heads"]
    gated = 2 if "full_attention_interval" in text else 1  # half of the queries' rows are a gate
    yield "self_attn.q_proj.weight", (gated * heads * dim, hidden)
    yield "self_attn.o_proj.weight", (hidden, heads * dim)
    if index < text["num_hidden_layers"] - text.get("num_kv_shared_layers", 0):
        yield "self_attn.k_proj.weight", (kv_heads * dim, hidden)
        if not one_for_both:
            yield "self_attn.v_proj.weight", (kv_heads * dim, hidden)


def _gated_delta(text: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads = text["hidden_size"], text["linear_num_value_heads"]
    values = heads * text["linear_value_head_dim"]
    channels = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"] + values
    yield "linear_attn.in_proj_qkv.weight", (channels, hidden)
    yield "linear_attn.in_proj_z.weight", (values, hidden)
    yield "linear_attn.out_proj.weight", (hidden, values)
    yield "linear_attn.conv1d.weight", (channels, text["linear_conv_kernel_dim"], 1)
    yield "linear_attn.A_log", (heads,)


def _feed_forward(text: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = text["hidden_size"], text.get("intermediate_size")
    if inner:
        yield from _gated("mlp", hidden, inner)
    shared = text.get("shared_expert_intermediate_size")
    if shared:
        yield from _gated("mlp.shared_expert", hidden, shared)
    count = text.get("num_experts")
    if count:
        yield "mlp.gate.weight", (count, hidden)
        for name, shape in _gated("mlp.switch_mlp", hidden, text["moe_intermediate_size"]):
            yield name, (count, *shape)


def _gated(path: str, hidden: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.gate_proj.weight", (inner, hidden)
    yield f"{path}.up_proj.weight", (inner, hidden)
    yield f"{path}.down_proj.weight", (hidden, inner)
