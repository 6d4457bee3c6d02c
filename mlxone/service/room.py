"""Whether a model, with its adapters, can be in this machine's memory at all; for who keeps to no budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlxone.service.adapters import absolute, weights_on_disk

if TYPE_CHECKING:
    from mlxone.service.model import Model

LARGE = 2_000_000_000  # bytes of weights on the disk


def check_room(model: Model, beside: int = 0) -> None:
    """Anything small fits every machine that MLX runs on, and need not wait for the question."""
    if beside + sum(file.stat().st_size for file in model.path.glob("*.safetensors")) > LARGE:
        from mlxone.service.admission import check_possible  # it knows models, and so comes after them

        check_possible(model, beside)


def mount_all(model: Model, adapters: Mapping[str, Path]) -> None:
    """By id, once it is known that there is room for all of them."""
    check_room(model, sum(weights_on_disk(absolute(folder)) for folder in adapters.values()))
    for id, folder in adapters.items():
        model.adapters.mount(id, folder)
