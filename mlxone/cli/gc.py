"""`mlxone gc`: what of the Hugging Face cache nobody needs any more, and with --yes its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.sizes import in_words
from mlxone.cli.terminal import one_line
from mlxone.core.errors import StorageError

if TYPE_CHECKING:
    from mlxone.hub.gc import Plan, RepoPlan
    from mlxone.hub.trash import Swept


@click.command(
    "gc",
    cls=SectionedCommand,
    params=[
        flag("Deleting", "--yes", "Delete; without it only the plan is shown.", is_flag=True),
        flag("Deleting", "--force", "Also snapshots that hold what no other one does.", is_flag=True),
        known.model_dir_flag(),
        known.json_flag("Print one JSON object."),
        verbose_option(),
    ],
)
def command(yes: bool, force: bool, model_dir: tuple[str, ...], json: bool) -> None:
    """Show what could be deleted, or delete it.

    In the Hugging Face cache: snapshots that no branch or tag points to any more, and files that
    no snapshot needs. Nothing younger than an hour, no unfinished download, no data set. Elsewhere:
    what an rm that was cut off left.
    """
    from mlxone.hub import gc, places, sources, trash

    others = [source for source in sources.sources(model_dir) if source.name != sources.HUGGING_FACE]
    elsewhere = [place for source in others for place in trash.holders(source.folder, source.depth)]
    plan = gc.plan(places.hf_cache(), force=force, elsewhere=elsewhere)
    done = gc.execute(plan) if yes else None
    if json:
        known.print_json(_as_json(plan, done))
    else:
        _show(plan, done)
    if done and done.problems:
        for problem in done.problems[:-1]:
            streams.complain(f"mlxone: {one_line(problem)}")
        raise StorageError(done.problems[-1], hint="the rest was deleted")


def _show(plan: Plan, done: Swept | None) -> None:
    for repo in plan.repos:
        if not repo.is_empty:
            click.echo(one_line(f"{repo.repo}: {_what(repo)}, {in_words(repo.bytes)}"))
        for note in repo.notes:
            streams.complain(one_line(f"{repo.repo}: {note}"))
    if plan.is_empty:
        streams.complain("nothing to delete")
    elif done is None:
        click.echo(f"{in_words(plan.bytes)} would come free")
        streams.complain("nothing was deleted; --yes deletes")
    else:
        click.echo(f"{in_words(done.freed_bytes)} came free")


def _what(repo: RepoPlan) -> str:
    parts = (
        (len(repo.snapshots), "snapshot"),
        (len(repo.blobs) + len(repo.payloads), "file"),
        (len(repo.trash), "leftover"),
    )
    return ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in parts if count)


def _as_json(plan: Plan, done: Swept | None) -> dict[str, Any]:
    return {
        "deleted": done is not None,
        "bytes": plan.bytes,
        "freed_bytes": done.freed_bytes if done else 0,
        "repos": [
            {
                "repo": repo.repo,
                "bytes": repo.bytes,
                "snapshots": [str(path) for path in repo.snapshots],
                "files": [str(path) for path in [blob.path for blob in repo.blobs] + repo.payloads],
                "leftovers": [str(path) for path in repo.trash],
                "notes": repo.notes,
            }
            for repo in plan.repos
        ],
        "problems": done.problems if done else [],
    }
