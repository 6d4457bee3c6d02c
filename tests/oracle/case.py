"""One tiny model of a family: its config.json, and what mlx-lm makes of that where it is something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WINDOW = 16  # shorter than the prompt
VOCAB = 260


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    config: dict[str, Any]  # in the spelling of published checkpoints
    # mlx-lm, and mlxone with it, computes what transformers computes when told this in its place.
    read_as: Mapping[str, Any] = field(default_factory=dict)
    by_steps: bool = True  # the logits of a step are those of the whole
    steps_around: float | None = None  # where the time steps of recurrent layers lie, before softplus

    @property
    def as_read(self) -> dict[str, Any]:
        return {**self.config, **self.read_as}


# Left out where they are None, if nobody wrote the None.
OPTIONAL = ("sliding_window", "sliding_window_pattern", "rope_scaling", "q_lora_rank")


def tiny(model_type: str, **settings: Any) -> dict[str, Any]:
    """Small numbers, and `settings` over them; None takes a number away."""
    config = {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "rope_theta": 20000.0,  # nobody's default, so that a theta nobody read shows
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    } | settings
    return {k: v for k, v in config.items() if v is not None or k in OPTIONAL}


def vision(model_type: str, **settings: Any) -> dict[str, Any]:
    """The smallest tower: nothing looks through it, it is only there to be left out."""
    return {
        "model_type": model_type,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    } | settings


def beside_vision(
    model_type: str, text: dict[str, Any], eyes: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    whole = {"model_type": model_type, "tie_word_embeddings": False} | settings
    return whole | {"text_config": text, "vision_config": eyes}
