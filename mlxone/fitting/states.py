"""How many bytes the layer states take: what each layer remembers of a context."""

from __future__ import annotations

from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.fitting.work import Work

ROOM = 256  # tokens by which a buffer grows; a test holds it equal to the one in `kv`


def kv_bytes(facts: ModelFacts, work: Work, element: int) -> int:
    """Of all rows when the context is full."""
    each = sum(layer.count * layer_bytes(facts, layer, work, element) for layer in facts.layers)
    return work.rows * each


def layer_bytes(facts: ModelFacts, layer: LayerFacts, work: Work, element: int) -> int:
    """Of one such layer and one row."""
    if layer.kind == "recurrent":
        return layer.state_bytes + layer.tail * element
    return held_tokens(facts, layer, work.context) * token_bytes(layer, work, element)


def held_tokens(facts: ModelFacts, layer: LayerFacts, context: int) -> int:
    """Tokens there is room for: all of them, or the window's."""
    room = -(-context // ROOM) * ROOM
    if layer.kind == "sliding" and facts.window:
        return min(room, facts.window)
    return room if layer.kind in ("full", "sliding") else 0


def token_bytes(layer: LayerFacts, work: Work, element: int) -> int:
    """Of one token's key and value, in one such layer."""
    size = layer.key_dim + layer.value_dim
    bits, group = kv_width(layer, work)
    if bits is None or layer.key_dim % group or layer.value_dim % group:  # MLX packs whole groups only
        return layer.kv_heads * size * element
    scales = size // group * 2 * element  # a scale and a bias each, of the type that was quantized
    return layer.kv_heads * (size * bits // 8 + scales)


def kv_width(layer: LayerFacts, work: Work) -> tuple[int | None, int]:
    """Bits and group size of quantized keys and values; None where they are kept as they are."""
    if work.kv_quant == "off":
        return None, 0
    if work.kv_quant == "config":
        return layer.kv_bits, layer.kv_group
    return int(work.kv_quant), 64
