"""`mlxone fuse`: an adapter made part of its model, as a folder that loads like any other."""

from __future__ import annotations

from typing import Any

import click

from mlxone.cli import known, streams
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.cli.sizes import in_words
from mlxone.cli.terminal import StatusLine
from mlxone.core.errors import UsageError


@click.command(
    "fuse",
    cls=SectionedCommand,
    params=[
        *model_params(),
        flag("Models", "--pull", "Download the model if it is missing.", is_flag=True),
        flag("Adapter", "--adapter --adapter-path", "The adapter's folder.", "DIR"),
        flag("Result", "--save-path", "The folder to make; it must not exist or be empty.", "DIR"),
        flag(
            "Result",
            "--dequantize",
            "Write plain weights in place of those packed as the model's are.",
            is_flag=True,
        ),
        flag("Output", "--quiet", "No progress and no notices.", is_flag=True),
        known.json_flag("Print one JSON object: path, bytes, linears."),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Make an adapter part of its model.

    Writes a model that answers as MODEL with the adapter does and keeps how each layer of MODEL is
    packed. Prints its folder, which is there whole or not at all.
    """
    query = named_model(model, model_flag, required=True)
    for name, what in (("adapter", "the adapter's folder"), ("save_path", "where the result goes")):
        if not flags[name]:
            shown = "--" + name.replace("_", "-")
            raise UsageError(f"{shown} is needed", hint=f"{shown} DIR says {what}")
    from mlxone.cli.opening import open_model
    from mlxone.hub.in_use import in_use

    loaded = open_model(query, pull=flags["pull"], quiet=flags["quiet"])
    status = StatusLine(quiet=flags["quiet"])
    status.show(f"fusing {loaded.name}")
    try:
        from mlxone.training.fuse import fuse

        with in_use(loaded.path, what="fuse"):
            fused = fuse(loaded, flags["adapter"], flags["save_path"], dequantize=flags["dequantize"])
    finally:
        status.clear()
    if flags["json"]:
        known.print_json({"path": str(fused.path), "bytes": fused.bytes, "linears": fused.linears})
        return
    if not flags["quiet"]:
        streams.complain(f"{fused.linears:,} layers changed, {in_words(fused.bytes)} of weights")
    click.echo(fused.path)
