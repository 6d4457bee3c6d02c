"""`mlxone models`: which architectures are known, and what was proven of each. Loads no MLX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams, table
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.table import Cell, Column
from mlxone.core.errors import UsageError

if TYPE_CHECKING:
    from mlxone.models.families.family import Family

COLUMNS = (
    Column("FAMILY"),
    Column("MODELS", comfortable=20),
    Column("MODEL_TYPE", optional=2),
    Column("TEMPLATE", optional=7),
    Column("TOOLS", optional=6),
    Column("REASONING", optional=5),
    Column("VISION", optional=3),
    Column("PARITY", optional=1),
    Column("TESTED SHAPES", optional=4),
)


@click.command(
    "models",
    cls=SectionedCommand,
    params=[
        click.Argument(["name"], metavar="[NAME]", required=False),
        flag("Output", "--wide", "Shorten nothing on a terminal.", is_flag=True),
        known.json_flag("Print a JSON list of objects."),
        verbose_option(),
    ],
)
def command(name: str | None, wide: bool, json: bool) -> None:
    """List the families of models that run.

    NAME is a family, a model_type of a config.json, or what people call the models. MODEL_TYPE says by which
    a config is recognised; VISION "text only" that such a model sees, and its text part is read; PARITY "L1"
    that logits equal mlx-lm's bit for bit; TESTED SHAPES at which true sizes. docs/models.md has the rest.
    """
    families = _named(name)
    if json:
        known.print_json([as_json(family) for family in families])
        return
    table.show(COLUMNS, [_row(family) for family in families], wide=wide)
    for family in families if name else []:
        for line in _departures(family):
            streams.complain(line)


def _named(name: str | None) -> list[Family]:
    from mlxone.models.families.about import found, known_names
    from mlxone.models.families.table import FAMILIES, nearest

    if name is None:
        return list(FAMILIES)
    families = found(name)
    if not families:
        near = nearest(name[:60])
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known_names())}"
        raise UsageError(f"no family or model_type {name[:60]!r}", hint=hint)
    return families


def as_json(family: Family) -> dict[str, Any]:
    from mlxone.models.families.about import ABOUT, PARITY, TEMPLATE, tested
    from mlxone.models.families.departures import of_family

    about = ABOUT[family.name]
    return {
        "family": family.name,
        "model_types": list(family.model_types),
        "models": about.models,
        "template": TEMPLATE,
        "tools": False,  # calls are neither offered nor read yet
        "calls": about.calls,
        "reasoning": about.reasoning,
        "vision": "text only" if about.vision else "",
        "parity": PARITY,
        "packings": list(about.packings),
        "tested": list(tested(family)),
        "departs": [
            {"setting": d.setting, "computed": d.computed, "matters": d.matters[family.name]}
            for d in of_family(family.name)
        ],
    }


def _row(family: Family) -> list[Cell]:
    facts = as_json(family)
    types: list[str] = facts["model_types"]
    short = types[0] if len(types) == 1 else f"{types[0]} +{len(types) - 1}"
    return [
        facts["family"],
        facts["models"],
        (", ".join(types), short),
        facts["template"],
        "yes" if facts["tools"] else "not yet",
        facts["reasoning"] or "-",
        facts["vision"] or "-",
        facts["parity"],
        ", ".join(facts["tested"]) or "-",
    ]


def _departures(family: Family) -> list[str]:
    facts = as_json(family)
    return [f"{facts['family']}: {d['setting']}: {d['computed']} ({d['matters']})" for d in facts["departs"]]
