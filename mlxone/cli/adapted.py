"""What the verbs that measure share: the model, with an adapter on it where one is named, and the rows."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import train_session
from mlxone.cli.flags import Flag, flag
from mlxone.cli.mlx_lm_keys import FEATURES
from mlxone.cli.sizes import read_tokens
from mlxone.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from mlxone.service.model import Model
    from mlxone.training.data.source import Data

SPLITS = ("test", "valid", "train")  # which is measured, the first there is
SHORTEST = 2  # tokens: the first of a text is not scored


def _length(text: str) -> int:
    length = read_tokens(text, "--max-seq-length")
    if length < SHORTEST:
        raise UsageError(f"--max-seq-length must be at least {SHORTEST}, not {length}")
    return length


def adapter_flags() -> list[click.Parameter]:
    return [
        flag("Models", "--pull", "Download the model if it is missing.", is_flag=True),
        flag("Models", "--adapter --adapter-path", "The folder of an adapter to measure it with.", "DIR"),
    ]


def measuring_flags(length: int) -> list[click.Parameter]:
    return [
        *(_data_flags()),
        flag(
            "Measuring",
            "--max-seq-length",
            f"Longest sample, in tokens; 4096, 4k. [{length}]",
            "N",
            type=_length,
            default=str(length),
        ),
        flag("Measuring", "--limit", "Only the first so many. [all]", "N", type=click.IntRange(1)),
        flag(
            "Measuring",
            "--batch --batch-size",
            "Samples computed together. [4]",
            "N",
            type=click.IntRange(1),
            default=4,
        ),
    ]


def _data_flags() -> list[Flag]:
    return [
        flag(
            "Data",
            "--data",
            "A file, a folder with test or valid, - for stdin, or ORG/REPO of a data set.",
            "PATH",
        ),
        flag(
            "Data",
            "--split",
            "Which part of a folder or data set. [test, else valid, else train]",
            "test|valid|train",
            type=click.Choice(SPLITS),
        ),
        flag("Data", "--skip-bad", "Leave bad rows out, and count them.", is_flag=True),
        *(
            flag("Data", f"--{name.replace('_', '-')}", f"What the rows call their {what}.", "KEY")
            for name, what in zip(FEATURES, ("prompt", "completion", "text", "messages"), strict=True)
        ),
    ]


def named_data(flags: Mapping[str, Any]) -> str:
    data: str | None = flags["data"]
    if not data:
        raise UsageError(
            "no data is named", hint="--data takes a file, a folder, - or ORG/REPO of a data set"
        )
    return data


def adapted(model: Model, folder: str | None) -> Model:
    """Another model that shares all its weights."""
    if folder is None:
        return model
    from pathlib import Path

    from mlxone.backend.arrays import lock, on_stream
    from mlxone.models.adapters import Adapter
    from mlxone.models.changed import changed_decoder

    with lock, on_stream():
        changes = Adapter.read(Path(os.path.expanduser(folder))).changes(model.decoder)
        return replace(model, decoder=changed_decoder(model.decoder, changes))


def wanted(flags: Mapping[str, Any]) -> tuple[Data, str | None]:
    """The rows to measure, and of which part they are; None where there are no parts, as in a file."""
    from mlxone.training.data.source import read

    data = read(
        train_session.source(named_data(flags), quiet=flags["quiet"]),
        valid_share=0.0,
        features={name: flags[name] for name in FEATURES if flags[name]} or None,
        skip_bad=flags["skip_bad"],
        need=(),
    )
    split = flags["split"] or next((name for name in SPLITS if getattr(data, name)), SPLITS[-1])
    rows = getattr(data, split)[: flags["limit"]]
    if not rows:
        raise DataError(f"{data.name} has no {split} rows", hint="--split names another part")
    is_whole = not (data.valid or data.test or flags["split"])
    return replace(data, train=rows, valid=[], test=[]), None if is_whole else split


def finite(value: float | None) -> float | None:
    """JSON has no word for what is no number."""
    return value if value is not None and math.isfinite(value) else None
