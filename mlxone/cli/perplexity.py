"""`mlxone perplexity`: how surprised a model is by a text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams
from mlxone.cli.adapted import adapter_flags, finite, measuring_flags, named_data, wanted
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.inputs import read_text
from mlxone.cli.mlx_lm_keys import FEATURES
from mlxone.cli.models import model_params, named_model
from mlxone.cli.terminal import StatusLine
from mlxone.cli.train_session import shortfall
from mlxone.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from mlxone.service.model import Model
    from mlxone.training.data.source import Data
    from mlxone.training.evaluate import Evaluation
    from mlxone.training.samples import Sample

TEXTS = (".txt", ".md", ".raw")


@click.command(
    "perplexity",
    cls=SectionedCommand,
    params=[
        *model_params(required=False),
        *adapter_flags(),
        *measuring_flags(512),
        flag("Output", "--quiet", "No progress and no notices.", is_flag=True),
        known.json_flag("Print one JSON object: perplexity, loss, tokens, samples."),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Say how surprised a model is by a text.

    --data is a file of plain text (.txt, .md, .raw), read in pieces of --max-seq-length tokens, or data as
    `train` takes it, of which each sample is one piece. Every token but a piece's first is counted.
    """
    from mlxone.cli.opening import open_model

    query, name = named_model(model, model_flag), named_data(flags)
    plain = _plain_text(name, flags)
    data = _rows(flags) if plain is None else None
    loaded = open_model(query, pull=flags["pull"], quiet=flags["quiet"])
    status = StatusLine(quiet=flags["quiet"])
    try:
        found = _measured(loaded, _pieces(loaded, plain, flags) if plain is not None else data, flags, status)
    finally:
        status.clear()
    if flags["json"]:
        values = {"perplexity": finite(found.perplexity), "loss": finite(found.loss)}
        about = {"model": loaded.name, "adapter": flags["adapter"], "data": name}
        known.print_json({**about, **values, "tokens": found.tokens, "samples": found.samples})
        return
    if not flags["quiet"]:
        for line in shortfall(found.truncated, found.skipped):
            streams.complain(line)
        pieces = "1 piece" if found.samples == 1 else f"{found.samples:,} pieces"
        streams.complain(f"loss {found.loss:.4f} over {found.tokens:,} tokens in {pieces}")
    click.echo(f"{found.perplexity:.4f}")


def _measured(model: Model, data: Any, flags: Mapping[str, Any], status: StatusLine) -> Evaluation:
    from mlxone.training.evaluate import evaluate

    return evaluate(
        model,
        data,
        adapter=flags["adapter"],
        batch=flags["batch"],
        max_length=flags["max_seq_length"],
        skip_bad=flags["skip_bad"],
        tell=lambda done, of: status.show(f"measuring: {done:,} of {of:,} pieces"),
    )


def _rows(flags: Mapping[str, Any]) -> Data:
    data, _ = wanted(flags)
    if data.format == "preference":
        raise DataError(f"{data.name} holds preferences", hint="`mlxone eval` measures those")
    return data


def _plain_text(data: str, flags: Mapping[str, Any]) -> str | None:
    if Path(data).suffix.lower() not in TEXTS or not os.path.isfile(os.path.expanduser(data)):
        return None
    for name in ("split", "skip_bad", *FEATURES):
        if flags[name]:
            shown = f"--{name.replace('_', '-')}"
            raise UsageError(f"{shown}: a plain text has neither parts nor rows", hint="leave it out")
    return read_text(data, shown_as="--data")


def _pieces(model: Model, text: str, flags: Mapping[str, Any]) -> list[Sample]:
    """A last one that is too short to score is left away."""
    from mlxone.training.samples import Sample

    ids = tuple(model.tokenizer.encode(text, add_special=True))
    length = min(flags["max_seq_length"], model.context_length or flags["max_seq_length"])
    found = [Sample(ids[at : at + length]) for at in range(0, len(ids), length)]
    scored = [sample for sample in found if sample.scored > 0][: flags["limit"]]
    if not scored:
        raise DataError(f"{flags['data']} is too short: nothing can be scored")
    return scored
