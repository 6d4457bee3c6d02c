"""What a decoder is made of, as plain values. A family turns a config into one of these.

A layer is a mixer (what looks at other tokens), a feed-forward part, or both; each kind of part has
its own spec here and its module in `parts/`. Names of tensors are data as well: a role's name is the
key where a family does not say otherwise. Imports no MLX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlxone.models.names import Placement, default_name


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary positions: over how many dimensions of a head, at which base, scaled how."""

    dims: int
    base: float
    traditional: bool = False
    scaling: Mapping[str, Any] = field(default_factory=dict)
    trained_context: int | None = None  # max_position_embeddings; some scalings need it


def yarn_magnitude(factor: float, weight: float) -> float:
    """What yarn multiplies with as the context grows by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


@dataclass(frozen=True, slots=True)
class NormSpec:
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    plus: float = 0.0  # what is added to the stored weight
    bias: bool = False  # of a layer norm


# What of the queries and keys is normalised together: each head with one weight for all, a projection
# as a whole, or each head with a weight of its own.
HeadNormReach = Literal["head", "projection", "own"]


@dataclass(frozen=True, slots=True)
class HeadNorm:
    norm: NormSpec
    reach: HeadNormReach = "head"
    after_rope: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Queries grow with their position: 1 + beta * log(1 + floor(position / trained))."""

    beta: float
    trained: int


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None  # None: sees no positions
    window: int | None = None  # None: sees everything before it
    qkv_bias: bool = False
    out_bias: bool = False
    fused: bool = False  # one tensor holds the projections of queries, keys and values
    head_norm: HeadNorm | None = None
    value_norm: NormSpec | None = None  # without a weight
    values_are_keys: bool = False  # no projection of their own
    shared: bool = False  # attends over what an earlier layer keeps, and keeps nothing itself
    gated: bool = False  # the output is multiplied with a sigmoid that the queries' projection brings
    sinks: bool = False
    softcap: float | None = None
    stretch: Stretch | None = None
    wide: Literal["no", "half", "always"] = "no"  # scores in float32: never, in place of float16, always


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Keys and values of all heads come from one short vector a token."""

    heads: int
    query_rank: int | None  # None: queries come from the hidden state at once
    kv_rank: int
    plain_dim: int  # of a head, the part without positions
    rope_dim: int
    value_dim: int
    scale: float
    rope: RopeSpec
    bias: bool
    norm_eps: float
    absorbed: bool  # keeps the short vector itself; else the keys and values made of it


@dataclass(frozen=True, slots=True)
class GatedDeltaSpec:
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    norm_eps: float
    fused: bool  # queries, keys, values and gate from one tensor, by key head


@dataclass(frozen=True, slots=True)
class Mamba2Spec:
    heads: int
    head_dim: int
    state_size: int
    groups: int
    kernel: int
    conv_bias: bool
    proj_bias: bool
    norm_eps: float
    norm_by_group: bool
    step_limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ShortConvSpec:
    kernel: int
    bias: bool


MixerSpec = AttentionSpec | LatentSpec | GatedDeltaSpec | Mamba2Spec | ShortConvSpec
RECURRENT = (GatedDeltaSpec, Mamba2Spec, ShortConvSpec)

# geglu is gelu_approx where the gate's product is fused with it
Activation = Literal["silu", "gelu", "gelu_approx", "geglu", "relu2", "clipped_silu"]


@dataclass(frozen=True, slots=True)
class DenseSpec:
    size: int
    activation: Activation = "silu"
    bias: bool = False
    gated: bool = True  # down(act(gate) * up); else down(act(up))
    fused: bool = False  # one tensor holds gate and up


# How the scores of the chosen experts come about:
# softmax: over all experts, then the best; chosen_softmax: the best logits, then over those alone;
# sigmoid: each for itself, the best by score plus a learned correction.
Scoring = Literal["softmax", "chosen_softmax", "sigmoid"]


@dataclass(frozen=True, slots=True)
class RouterSpec:
    experts: int
    chosen: int
    scoring: Scoring
    bias: bool = False
    precise: bool = True  # a softmax in float32, rounded behind it; a sigmoid in float32 that stays so
    wide: bool = False  # the softmax of what was chosen stays in float32
    normalised: bool = False  # the chosen scores add up to 1
    normal_eps: float = 0.0  # added to their sum
    correction: str | None = None  # the tensor, within the part, of what is added for the choice alone
    groups: int = 1
    chosen_groups: int = 1
    factor: float = 1.0  # multiplied at the end
    own_norm: NormSpec | None = None  # it normalises its input itself, and scales what it gives by expert
    lowest_first: bool = False  # chosen by partitioning the negated scores, as some families do


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    router: RouterSpec
    size: int
    activation: Activation = "silu"
    bias: bool = False
    gated: bool = True
    latent: int | None = None  # experts work in this many dimensions
    latent_bias: bool = False
    shared: DenseSpec | None = None  # an expert every token is sent to
    shared_gate: bool = False
    shared_beside: bool = False  # its tensors lie beside those of the part, not in it
    as_input: bool = False  # the sum is cast back to the experts' dtype


@dataclass(frozen=True, slots=True)
class DenseAndExpertsSpec:
    """Both read the hidden state through norms of their own, and what they give is added."""

    dense: DenseSpec
    experts: ExpertsSpec


FeedForwardSpec = DenseSpec | ExpertsSpec | DenseAndExpertsSpec


@dataclass(frozen=True, slots=True)
class LayerSpec:
    mixer: MixerSpec | None
    feed_forward: FeedForwardSpec | None
    memory: int | None  # which of the model's states it reads; None: none

    @property
    def remembers(self) -> bool:
        """Whether that state is its own to write."""
        return self.mixer is not None and not (isinstance(self.mixer, AttentionSpec) and self.mixer.shared)

    @property
    def mask(self) -> str:
        """Layers of one kind stand at one offset and share a mask."""
        if not isinstance(self.mixer, AttentionSpec | LatentSpec):
            return "none"
        if isinstance(self.mixer, LatentSpec):
            return "array" if self.mixer.absorbed else "full"
        kind = "full" if self.mixer.window is None else "sliding"
        return kind if self.mixer.softcap is None else f"{kind} array"


@dataclass(frozen=True, slots=True)
class PerLayerInputSpec:
    """A small second embedding of each token for each layer, mixed in at the layer's end."""

    dims: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class LogitsSpec:
    """What happens around the head, in this order."""

    divide_hidden: float | None = None
    multiply: float | None = None
    divide: float | None = None
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        return self == LogitsSpec()


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    family: str
    vocab_size: int
    hidden_size: int
    norm: NormSpec
    layers: tuple[LayerSpec, ...]
    tied_head: bool | None  # None: where the checkpoint has no head
    context_length: int | None
    placement: Placement = "before"
    prefix: str = ""  # before every tensor's name: a text model inside a larger one has one
    names: Mapping[str, str] = field(default_factory=dict)  # where they are not those of `models.names`
    embedding_scale: float | None = None
    residual_scale: float | None = None
    clipped_residual: bool = False  # float16 sums are kept within its range
    layer_scale: bool = False  # each layer ends with a learned factor
    logits: LogitsSpec = LogitsSpec()
    per_layer_input: PerLayerInputSpec | None = None
    unneeded: tuple[str, ...] = ()  # beginnings of tensors that some checkpoints carry for other uses

    def name(self, role: str) -> str:
        """What the checkpoint calls a part inside its layer, or a module inside its part."""
        return self.names[role] if role in self.names else default_name(role, self.placement)

    def path(self, role: str) -> str:
        """Of a part outside the layers."""
        return self.prefix + self.name(role)

    def layer_path(self, index: int) -> str:
        return f"{self.path('layers')}.{index}"
