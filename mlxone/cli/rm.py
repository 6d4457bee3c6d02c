"""`mlxone rm`: a model off the disk, after a question."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mlxone.cli import known, streams, terminal
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.cli.sizes import in_words
from mlxone.cli.terminal import neutralise, one_line
from mlxone.core.errors import ModelNotFound, StorageError, UsageError

if TYPE_CHECKING:
    from mlxone.hub.entry import Entry
    from mlxone.hub.remove import Removal
    from mlxone.service.registry import Registry


@click.command(
    "rm",
    cls=SectionedCommand,
    params=[
        *model_params(),
        flag("Models", "--revision", "Only this branch, tag or commit.", "REV"),
        known.model_dir_flag(),
        flag("Deleting", "--yes", "Do not ask.", is_flag=True),
        verbose_option(),
    ],
)
def command(
    model: str | None, model_flag: str | None, revision: str | None, model_dir: tuple[str, ...], yes: bool
) -> None:
    """Delete a model from this machine.

    A repo goes with all its revisions. Outside the Hugging Face cache only a model's own kinds of
    files go. A model that a running mlxone uses stays.
    """
    from mlxone.hub import remove
    from mlxone.hub.sources import STARTER

    model = named_model(model, model_flag, required=True)
    with known.registry(model_dir) as registry:
        everything = registry.refresh()
        entry = _meant(registry, everything, model, revision)
        what = remove.removal(
            entry,
            one_revision=revision is not None or _is_one_revision(model, entry),
            beside=everything,
            roots=[source.folder for source in registry.sources],
        )
        if not yes and not _agrees(entry, what):
            streams.complain("nothing was deleted")
            raise click.exceptions.Exit(1)
        done = remove.remove(what)
        for path in what.stays:
            streams.complain(one_line(f"not a model's file, so it stays: {path}"))
        if entry.source == STARTER:
            streams.complain("the starter comes back by itself: `mlxone run` fetches it when it is needed")
        for copy in _copies(entry, everything):
            streams.complain(one_line(f"another copy stays: {copy}"))
        click.echo(neutralise(f"{entry.name} in {entry.source}: {in_words(done.freed_bytes)} came free"))
        if done.problems:
            raise StorageError(done.problems[0], hint="the rest was deleted" if done.freed_bytes else "")


def _meant(registry: Registry, everything: list[Entry], model: str, revision: str | None) -> Entry:
    """A damaged model is one as well: that is a reason to delete it."""
    from mlxone.hub.remove import remnant

    try:
        found = registry.match(model, among=everything)
        if _means_another(model, found):
            raise ModelNotFound(f"{model} is not on this machine", hint=f"near it: {found.name}")
    except ModelNotFound:
        rest = remnant(model)
        if rest is None or revision is not None:
            raise
        return rest
    if revision is None:
        return found
    if _is_one_revision(model, found):
        raise UsageError(f"{model} and --revision both name a revision", hint="leave one of the two out")
    return registry.match(f"{found.repo}@{revision}", among=everything)


def _means_another(model: str, found: Entry) -> bool:
    """What looks like an id is one: `ORG/NAME` must not delete `ORG/NAME-4bit` where it is gone itself."""
    asked = model.partition("@")[0]
    if "/" not in asked or os.path.lexists(os.path.expanduser(model)):
        return False
    return asked.lower() not in (found.repo.lower(), found.repo_id.lower(), found.name.lower())


def _is_one_revision(model: str, entry: Entry) -> bool:
    """Named with its commit, or by the path of a snapshot."""
    by_path = os.path.realpath(os.path.expanduser(model)) == os.path.realpath(entry.path)
    return by_path or "@" in model


def _agrees(entry: Entry, what: Removal) -> bool:
    if not terminal.is_terminal(sys.stdin) or not terminal.is_terminal(sys.stderr):
        raise UsageError("rm asks before it deletes, and there is no terminal to ask on", hint="add --yes")
    lines = [f"{entry.name} in {entry.source}, {in_words(what.size_bytes)}:"]
    lines += [f"  {path}" for path in what.paths]
    lines += [f"  stays: {path}" for path in what.stays]
    sys.stderr.write(neutralise("\n".join([*lines, "Delete it? [y/N] "])))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _copies(entry: Entry, everything: Sequence[Entry]) -> list[str]:
    """The same repo in other sources: its name goes on to mean one of those."""
    return [str(e.path) for e in everything if e.repo == entry.repo and e.source != entry.source]
