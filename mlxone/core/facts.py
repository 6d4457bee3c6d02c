"""What memory and speed depend on in a model, as plain numbers.

`hub` reads them from configs and headers, `fitting` computes with them, the registry keeps them
as JSON. Nothing here knows a file or a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

# full: keeps every token. sliding: keeps the window's. recurrent: keeps a state of one size.
# shared: attends over what an earlier layer keeps. none: no memory at all.
LayerKind = Literal["full", "sliding", "recurrent", "shared", "none"]


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """Layers that remember in the same way; how they are ordered makes no difference to memory."""

    count: int
    kind: LayerKind
    kv_heads: int = 0
    key_dim: int = 0  # of one head
    value_dim: int = 0
    state_bytes: int = 0  # what a recurrent layer keeps for one row in float32
    tail: int = 0  # elements of the activations' type that it keeps beside that
    kv_bits: int | None = None  # what kv_config.json says of these layers
    kv_group: int = 64
    # What it computes with while a prompt is read:
    score_tables: int = 1  # how many tables of scores, where attention writes one down
    unfolded: int = 0  # elements made anew of each token that is kept
    channels: int = 0  # a recurrent layer's own width
    by_token: bool = False  # a state for each token
    pair_heads: int = 0  # heads with a table of weights between the tokens of a part


@dataclass(frozen=True, slots=True)
class ModelFacts:
    model_type: str
    layers: tuple[LayerFacts, ...]
    hidden_size: int
    intermediate_size: int  # the widest that is computed for one token at once
    heads: int
    head_dim: int
    vocab_size: int
    parameters: int  # of the language model; so are all sizes but sidecar_bytes
    language_bytes: int  # as stored
    wide_bytes: int  # as float32, nothing packed
    unpackable_parameters: int  # norms and the like, which stay floats whatever the bits
    float_bytes: int = 2  # of one element of activations and of unquantized keys and values
    packed_parameters: int = 0  # those now held in packed form
    scale_bytes: int = 0  # scales and biases of packed weights that are floats, within language_bytes
    lookup_bytes: int = 0  # an embedding table that is only looked up, never multiplied with
    expert_bytes: int = 0  # routed experts, within language_bytes
    experts: int = 0
    experts_per_token: int = 0
    sidecar_bytes: int = 0  # vision and audio towers, beside language_bytes
    window: int | None = None  # of the sliding layers
    context_length: int | None = None
    bits: float | None = None  # of the packed weights, as the config states them
    group_size: int | None = None
    mode: str | None = None

    @property
    def layer_count(self) -> int:
        return sum(layer.count for layer in self.layers)

    @property
    def active_bytes(self) -> int:
        """What one token reads: all but tables it only looks up and experts it is not sent to."""
        return self.read_bytes(1)

    def read_bytes(self, rows: int) -> int:
        """What one step of so many rows reads: each row's tokens choose experts of their own."""
        idle = 0.0
        if self.experts:
            idle = self.expert_bytes * (1 - self.experts_per_token / self.experts) ** rows
        return self.language_bytes - self.lookup_bytes - round(idle)

    @property
    def active_share(self) -> float:
        return self.active_bytes / self.language_bytes if self.language_bytes else 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelFacts:
        layers = tuple(LayerFacts(**layer) for layer in values["layers"])
        return cls(**{**values, "layers": layers})
