"""`mlxone device`, not listed: what MLX says of the device, for `fit` to ask in a process apart."""

from __future__ import annotations

import json

import click


@click.command("device")
def command() -> None:
    """Print what MLX says of the device, as JSON."""
    from mlxone.backend import probe

    click.echo(json.dumps(probe.facts()))
