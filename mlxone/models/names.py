"""What checkpoints call the tensors of a decoder, where a family does not say otherwise.

A role without an entry is called by its own name: `q_proj` is q_proj. A row of `families` names
what its family calls differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

# Where a layer normalises: before each part, after it, or both; parallel: one norm for both parts, whose
# outputs are added to each other first (parts_first) or to the layer's input one by one.
Placement = Literal["before", "after", "around", "parallel", "parallel_parts_first"]

NAMES: Mapping[str, str] = {
    "embedding": "model.embed_tokens",
    "layers": "model.layers",
    "final_norm": "model.norm",
    "head": "lm_head",
    # parts of a layer
    "attention": "self_attn",
    "latent": "self_attn",
    "gated_delta": "linear_attn",
    "mamba2": "mamba",
    "short_conv": "conv",
    "dense": "mlp",
    "experts": "mlp",
    "dense_and_experts": "",  # in the layer itself
    # norms of a layer
    "mixer_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    # norms of a part that is dense and experts
    "after_dense_norm": "post_feedforward_layernorm_1",
    "experts_norm": "pre_feedforward_layernorm_2",
    "after_experts_norm": "post_feedforward_layernorm_2",
    # inside the parts
    "router": "gate",
    "stacked": "switch_mlp",
    "shared": "shared_expert",
    "shared_gate": "shared_expert_gate",
    "expert_gate": "gate_proj",
    "expert_up": "up_proj",
    "expert_down": "down_proj",
}
BY_PLACEMENT: Mapping[Placement, Mapping[str, str]] = {
    "around": {
        "after_mixer_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "after_feed_forward_norm": "post_feedforward_layernorm",
    },
    "after": {
        "after_mixer_norm": "post_attention_layernorm",
        "after_feed_forward_norm": "post_feedforward_layernorm",
    },
}


def default_name(role: str, placement: Placement) -> str:
    return BY_PLACEMENT.get(placement, {}).get(role) or NAMES.get(role, role)
