"""`mlxone completion`: the script that lets a shell complete verbs, flags and models."""

from __future__ import annotations

import os

import click

from mlxone.cli.completion_scripts import SCRIPTS
from mlxone.cli.flags import SectionedCommand
from mlxone.cli.group import verbose_option
from mlxone.core.errors import UsageError


@click.command(
    "completion",
    cls=SectionedCommand,
    params=[
        click.Argument(["shell"], metavar="|".join(SCRIPTS), required=False),
        verbose_option(),
    ],
)
def command(shell: str | None) -> None:
    """Print the completion script for a shell.

    It completes verbs, flags, their values, files, and the names of the models on this machine.
    How to install it:

    bash: echo 'eval "$(mlxone completion bash)"' >> ~/.bashrc

    zsh: echo 'eval "$(mlxone completion zsh)"' >> ~/.zshrc

    fish: mlxone completion fish > ~/.config/fish/completions/mlxone.fish
    """
    if shell is None:
        raise UsageError("no shell is named", hint=_yours())
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for {shell}", hint=f"there is one for {_listed()}")
    click.echo(SCRIPTS[shell], nl=False)


def _yours() -> str:
    mine = os.path.basename(os.environ.get("SHELL", ""))
    if mine in SCRIPTS:
        return f"yours is {mine}, by $SHELL: `mlxone completion {mine}`"
    return f"`mlxone completion SHELL`, for {_listed()}"


def _listed() -> str:
    *first, last = SCRIPTS
    return f"{', '.join(first)} and {last}" if first else last
