"""`mlxone get`: a model from the Hub into the standard cache; prints the folder it is in."""

from __future__ import annotations

from typing import Any

import click

from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.core.errors import ModelNotFound


@click.command(
    "get",
    cls=SectionedCommand,
    params=[
        click.Argument(["model"], metavar="MODEL"),
        flag("Download", "--revision", "A branch, tag or commit; else the main branch.", "REV"),
        flag("Output", "--quiet", "No progress.", is_flag=True),
        verbose_option(),
    ],
)
def command(model: str, **flags: Any) -> None:
    """Download a model from the Hub, or refresh it.

    MODEL is ORG/REPO, a short name, or a query that matches a model already on disk.
    """
    from mlxone.cli import opening
    from mlxone.hub import find

    name, _, revision = model.partition("@")
    repo = find.repo_for(name) or _repo_on_disk(model)
    click.echo(opening.download(repo, revision=flags["revision"] or revision or None, quiet=flags["quiet"]))


def _repo_on_disk(query: str) -> str:
    from mlxone.hub import find

    repo = find.find(query).repo
    if repo is None:
        raise ModelNotFound(f"{query} is not from the Hub", hint="name what to get as ORG/REPO")
    return repo
