"""How every verb takes its model: as the one argument, or with --model."""

from __future__ import annotations

import click

from mlxone.cli.flags import flag
from mlxone.core.errors import UsageError

WAYS = "A path, ORG/REPO, short name, or a query that matches one model."


def model_params(*, required: bool = True) -> list[click.Parameter]:
    metavar = "MODEL" if required else "[MODEL]"
    default = "" if required else " [MLXONE_MODEL, the config file's model, the starter]"
    return [
        click.Argument(["model"], metavar=metavar, required=False),
        flag("Models", "--model model_flag", f"The same as MODEL. {WAYS}{default}", "MODEL"),
    ]


def named_model(argument: str | None, by_flag: str | None, *, required: bool = False) -> str:
    if argument is not None and by_flag is not None:
        raise UsageError(f"two models are named: {argument} and {by_flag}", hint="name one")
    named = by_flag if argument is None else argument
    if named is not None:
        return named
    if required:
        raise UsageError("no model is named", hint="give a path, ORG/REPO, short name or query")
    from mlxone.hub import find

    return find.default_model()
