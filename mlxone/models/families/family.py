"""One row of the table of architectures: where a family departs from the plain llama decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlxone.formats.config import Config
from mlxone.models.families.reading import Kind, attention_layers, dense_layers
from mlxone.models.names import Placement
from mlxone.models.spec import Activation, FeedForwardSpec, HeadNormReach, MixerSpec

SILU = ("silu", "swish")
# Of models that also see and hear: not the text model's.
OTHER_TOWERS = (
    "vision_tower.", "multi_modal_projector.", "audio_tower.", "embed_audio.", "embed_vision.",
    "vision_embedder.", "model.visual.", "visual.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    model_types: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # what configs may leave out
    refuses: Mapping[str, Any] = field(default_factory=dict)  # settings that would compute other numbers
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # the same, by the values that do not

    # the checkpoint
    names: Mapping[str, str] | Callable[[Config], Mapping[str, str]] = field(default_factory=dict)
    prefix: str = ""  # of tensors, where the config nests the text model's under text_config
    always_prefixed: bool = False
    inner_types: tuple[str, ...] = ()  # model_types of text_config that are this family's; empty: any
    unneeded: tuple[str, ...] = ()
    head_by_weights: bool = False  # tied exactly where the checkpoint has no head

    # norms
    placement: Placement | Callable[[Config], Placement] = "before"
    norm: Literal["rms", "layer"] = "rms"
    norm_key: str = "rms_norm_eps"
    norm_plus: float = 0.0
    norm_bias: bool | str = False

    # attention; a bias is there or not, or a key of the config says so; None: attention_bias does
    qkv_bias: bool | str | None = None
    out_bias: bool | str | None = None
    fused_qkv: bool = False
    head_dim_from_config: bool = True  # False: always hidden_size / heads
    head_norm: bool | str = False
    head_norm_reach: HeadNormReach = "head"
    head_norm_after_rope: bool = False
    scale: Callable[[Config], float] | None = None  # None: one over the root of a head's dimensions
    kinds: Callable[[Config, int], list[Kind]] | None = None  # full or sliding, where not stated
    reads_layer_types: bool = True
    ignores_windows: bool = False  # mlx-lm takes every layer as full, whatever layer_types says
    attention: Callable[[Config], dict[str, Any]] | None = None  # further fields of an AttentionSpec

    # positions
    rotated: Callable[[Config, list[Kind]], list[bool]] | None = None  # which layers see positions
    rope_traditional: bool = False
    partial: bool = False  # of each head only a part may be rotated
    partial_rope: float = 1.0
    sliding_rope_key: str | None = None
    sliding_rope_plain: bool = False  # scaling is for the full layers only
    rope: Callable[[Config, Mapping[str, Any]], Mapping[str, Any]] | None = None  # what scaling to take

    # the feed-forward part
    activation: Activation = "silu"
    activation_key: str = "hidden_act"
    activation_names: tuple[str, ...] = SILU  # what configs may call it
    mlp_bias: bool | str = "mlp_bias"
    gated: bool = True
    fused_gate_up: bool = False

    # how the layers are made of all this, and further fields of the DecoderSpec
    mixers: Callable[[Family, Config], list[MixerSpec | None]] = attention_layers
    feed_forwards: Callable[[Family, Config], list[FeedForwardSpec | None]] = dense_layers
    decoder: Callable[[Config], dict[str, Any]] | None = None
