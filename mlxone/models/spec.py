"""What a decoder is made of, as plain values. A family turns a config into one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AttentionKind = Literal["full", "sliding"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions: over how many dimensions of a head, at which base, scaled how."""

    dims: int
    base: float
    traditional: bool = False
    scaling: Mapping[str, Any] = field(default_factory=dict)
    trained_context: int | None = None  # max_position_embeddings; the dynamic scaling needs it


@dataclass(frozen=True, slots=True)
class LayerSpec:
    attention: AttentionKind
    rope: RopeSpec | None  # None: this layer sees no positions


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    layers: tuple[LayerSpec, ...]
    window: int | None  # of the sliding layers
    tied_head: bool
    qk_norm: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    context_length: int | None

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)
