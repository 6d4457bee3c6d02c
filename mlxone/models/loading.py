"""A model folder to a decoder: every tensor named, shaped and accounted for."""

from __future__ import annotations

from pathlib import Path

from mlxone.backend.arrays import on_stream
from mlxone.core.errors import DamagedModel
from mlxone.formats.config import Config
from mlxone.models.building import build_decoder
from mlxone.models.checkpoint import Checkpoint
from mlxone.models.decoder import Decoder
from mlxone.models.families.table import spec_of
from mlxone.models.spec import DecoderSpec
from mlxone.models.weights import WeightSource

# Tensors that some checkpoints carry and no decoder needs: they follow from the config.
NOT_NEEDED = (".rotary_emb.inv_freq",)


def load_decoder(folder: Path, *, config: Config | None = None) -> Decoder:
    config = config or Config.read(folder)
    spec = spec_of(config)
    checkpoint = Checkpoint(folder)
    with on_stream():
        source = WeightSource(checkpoint, config)
        decoder = build_decoder(spec, source)
    _check_leftovers(checkpoint, decoder.spec)
    return decoder


def _check_leftovers(checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    unneeded = (*spec.unneeded, f"{spec.path('head')}.") if spec.tied_head else spec.unneeded
    for name in checkpoint.leftover():
        if name.endswith(NOT_NEEDED) or name.startswith(unneeded):
            checkpoint.skip(name)
    left = checkpoint.leftover()
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise DamagedModel(
            f"{checkpoint.folder}: unexpected tensor {left[0][:120]!r}{more}",
            hint=f"config.json describes a {spec.family} model without it",
        )
