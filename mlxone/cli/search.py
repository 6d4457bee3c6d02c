"""`mlxone search`: models on the Hub, those made for MLX first."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mlxone.cli import known, streams, table
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.sizes import count_in_words, in_words
from mlxone.cli.table import Cell, Column
from mlxone.cli.terminal import StatusLine

if TYPE_CHECKING:
    from mlxone.hub.search import Hit

COLUMNS = (
    Column("MODEL", comfortable=32),
    Column("MLX", optional=2),
    Column("SIZE", right=True),
    Column("PARAMS", right=True, optional=3),
    Column("DOWNLOADS", right=True, optional=4),
    Column("LIKES", right=True, optional=6),
    Column("UPDATED", optional=5),
    Column("HERE", optional=1),
)


@click.command(
    "search",
    cls=SectionedCommand,
    params=[
        click.Argument(["words"], metavar="WORDS...", nargs=-1, required=True),
        flag(
            "Models", "--limit", "No more than this many. [20]", "N", type=click.IntRange(1, 500), default=20
        ),
        known.json_flag("Print a JSON list of objects; sizes are in bytes."),
        verbose_option(),
    ],
)
def command(words: tuple[str, ...], limit: int, json: bool) -> None:
    """Search the Hub for models, those made for MLX first.

    After MLX conversions come other models with safetensors, each kind by its downloads of the last
    month. SIZE is that of the weights, as far as the Hub counted them; HERE says what is on this machine.
    """
    from mlxone.hub.search import search

    wanted = " ".join(words).strip()
    status = StatusLine()
    status.show("asking the Hub")
    try:
        hits = search(wanted, limit)
    finally:
        status.clear()
    if json:
        known.print_json([asdict(hit) for hit in hits])
    elif hits:
        table.show(COLUMNS, [_row(hit) for hit in hits])
    if not hits:
        streams.complain(f"mlxone: no model on the Hub matches {wanted!r}")
        raise click.exceptions.Exit(1)


def _row(hit: Hit) -> list[Cell]:
    return [
        hit.repo,
        known.yes_or_no(hit.mlx),
        "" if hit.size_bytes is None else in_words(hit.size_bytes),
        "" if hit.parameters is None else count_in_words(hit.parameters),
        str(hit.downloads),
        str(hit.likes),
        hit.updated or "",
        "yes" if hit.on_disk else "",
    ]
