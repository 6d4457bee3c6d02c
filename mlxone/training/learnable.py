"""Which models can learn: those whose every layer attends over keys and values of its own.

Of a batch all texts lie in one row, and attention keeps them apart; other kinds of memory cannot yet.
"""

from __future__ import annotations

from mlxone.core.errors import UnsupportedModel
from mlxone.models.spec import RECURRENT, AttentionSpec, DecoderSpec, LayerSpec


def check_learnable(spec: DecoderSpec) -> None:
    why = why_not(spec)
    if why:
        raise UnsupportedModel(
            f"{spec.family} with {why} cannot be trained yet",
            hint="docs/training.md lists the families that can be",
        )


def why_not(spec: DecoderSpec) -> str:
    """Nothing where it can be trained."""
    if spec.per_layer_input is not None:
        return "an input of its own for each layer"
    return next(filter(None, map(_why_not, spec.layers)), "")


def _why_not(layer: LayerSpec) -> str:
    if isinstance(layer.mixer, RECURRENT):
        return "recurrent layers"
    shared = isinstance(layer.mixer, AttentionSpec) and layer.mixer.shared
    return "layers that share keys and values" if shared else ""
