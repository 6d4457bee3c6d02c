"""A GGUF file's arrays under a snapshot's names, each with the shape the sizes ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlxone.backend.arrays import mx
from mlxone.core.errors import DamagedModel, UnsupportedModel
from mlxone.models.gguf_config import GROUP, Sizes

# GGUF's name of a layer's part -> the snapshot's.
LAYER_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER_PARTS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROTATED = ("attn_q", "attn_k")
KINDS = ("weight", "scales", "biases")

Shape = tuple[int, ...]


def rename(
    weights: Mapping[str, mx.array], sizes: Sizes
) -> tuple[dict[str, mx.array], dict[str, int | None]]:
    """Snapshot names -> arrays, and for the path of each matrix its bits (None: not quantized)."""
    left = dict(weights)
    dtype = _dtype(left)
    named: dict[str, mx.array] = {}
    modules: dict[str, int | None] = {}
    for source, target, shape in _expected(sizes, tied="output.weight" not in left):
        parts = {kind: left.pop(f"{source}.{kind}") for kind in KINDS if f"{source}.{kind}" in left}
        bits = _bits(source, parts, shape)
        if len(shape) == 2:
            modules[target] = bits
        for kind, array in parts.items():
            if source.endswith(ROTATED):
                array = unpermute(array, shape[0] // sizes.head_dim)
            named[f"{target}.{kind}"] = array if array.dtype == mx.uint32 else array.astype(dtype)
    if left:
        raise UnsupportedModel(f"tensor {min(left)!r} has no place in a llama model")
    return named, modules


def _dtype(weights: Mapping[str, mx.array]) -> mx.Dtype:
    """float16, the dtype MLX gives to scales and unpacked blocks; a file of only float32 stays that."""
    return mx.float32 if all(w.dtype == mx.float32 for w in weights.values()) else mx.float16


def _expected(sizes: Sizes, *, tied: bool) -> Iterator[tuple[str, str, Shape]]:
    """(GGUF name, snapshot name, shape) of every module."""
    hidden, queries, keys = sizes.hidden, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    shapes: dict[str, Shape] = {
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (sizes.feed_forward, hidden),
        "ffn_up": (sizes.feed_forward, hidden),
        "ffn_down": (hidden, sizes.feed_forward),
        "attn_norm": (hidden,),
        "ffn_norm": (hidden,),
        "token_embd": (sizes.vocabulary, hidden),
        "output_norm": (hidden,),
        "output": (sizes.vocabulary, hidden),
    }
    for part, name in OUTER_PARTS.items():
        if not (part == "output" and tied):
            yield part, name, shapes[part]
    for layer in range(sizes.layers):
        for part, name in LAYER_PARTS.items():
            yield f"blk.{layer}.{part}", f"model.layers.{layer}.{name}", shapes[part]


def _bits(source: str, parts: Mapping[str, mx.array], shape: Shape) -> int | None:
    """The bits of a quantized module, None for plain weights; its shapes are right either way."""
    if "weight" not in parts:
        raise DamagedModel(f"tensor '{source}.weight' is missing")
    weight, scales, biases = (parts.get(kind) for kind in KINDS)
    assert weight is not None
    wrong = DamagedModel(f"tensor '{source}.weight' does not have the shape {shape}")
    if scales is None or biases is None:
        if weight.shape != shape or len(parts) > 1:
            raise wrong
        return None
    bits = weight.shape[-1] // max(1, scales.shape[-1])  # 32 weights of b bits fill b words of 32 bits
    groups = (*shape[:-1], shape[-1] // GROUP)
    whole = scales.shape == biases.shape == groups and weight.shape == (*shape[:-1], groups[-1] * bits)
    if bits not in (4, 8) or len(shape) != 2 or not whole:
        raise wrong
    return bits


def unpermute(rows: mx.array, heads: int) -> mx.array:
    """Rotary pairs side by side -> in two halves, head by head: (heads, d/2, 2) -> (heads, 2, d/2).

    Only whole rows move, so packed words, scales and biases are treated alike.
    """
    count, width = rows.shape
    return rows.reshape(heads, count // heads // 2, 2, width).swapaxes(1, 2).reshape(count, width)
