"""`mlxone uninstall`: off the disk what the program unpacked, after a question; then what stays is said."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams, terminal
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.sizes import in_words
from mlxone.cli.terminal import neutralise, one_line
from mlxone.core.errors import StorageError, UsageError

if TYPE_CHECKING:
    from mlxone.hub.leaving import Leaving, Rest
    from mlxone.hub.trash import Swept


@click.command(
    "uninstall",
    cls=SectionedCommand,
    params=[
        flag(
            "Deleting",
            "--all",
            "Also mlxone's own state: the registry, what it learned, the history, the prepared starter.",
            is_flag=True,
        ),
        flag("Deleting", "--yes", "Do not ask.", is_flag=True),
        known.json_flag("Print one JSON object; without --yes nothing is deleted."),
        verbose_option(),
    ],
)
def command(all: bool, yes: bool, json: bool) -> None:
    """Remove what mlxone unpacked here, and say what stays.

    That is what the binary and the zipapp made at their first start. The file you downloaded, models
    and the config file are never deleted. What another mlxone runs from or has open stays.
    """
    from mlxone.hub import leaving

    what = leaving.look(with_state=all)
    if json and not yes:
        known.print_json(_as_json(what, None))
        return
    if not what.is_empty and not yes and not _agrees(what):
        streams.complain("nothing was deleted")
        raise click.exceptions.Exit(1)
    _last_imports()
    done = leaving.leave(what)
    if json:
        known.print_json(_as_json(what, done))
    else:
        _say(what, done)
    for problem in done.problems[:-1]:
        streams.complain(f"mlxone: {one_line(problem)}")
    if done.problems:
        raise StorageError(done.problems[-1], hint="the rest was deleted" if done.freed_bytes else "")


def _last_imports() -> None:
    """What the program may still want when its own files are gone."""
    import traceback  # noqa: F401

    from mlxone.cli import failures  # noqa: F401


def _agrees(what: Leaving) -> bool:
    if not terminal.is_terminal(sys.stdin) or not terminal.is_terminal(sys.stderr):
        click.echo(neutralise("\n".join(_plan(what))))
        raise UsageError(
            "uninstall asks before it deletes, and there is no terminal to ask on", hint="add --yes"
        )
    sys.stderr.write(neutralise("\n".join([*_plan(what), "Delete it? [y/N] "])))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _plan(what: Leaving) -> list[str]:
    lines = [f"{in_words(what.size_bytes)} of mlxone would be deleted:"]
    for runtime in what.runtimes.runtimes:
        own = ", which runs this command" if runtime.own else ""
        lines.append(f"  {runtime.path} ({in_words(runtime.size_bytes)}{own})")
    lines += [f"  {path}" for path in (*what.state.files, *what.state.trash)]
    return lines + [f"  stays: {_in_words(rest)}" for rest in what.rest]


def _say(what: Leaving, done: Swept) -> None:
    if what.is_clean:
        click.echo("nothing that mlxone unpacked is here")
    elif not what.is_empty:
        click.echo(f"{in_words(done.freed_bytes)} came free")
    for rest in what.rest:
        if not rest.is_problem:  # that one is told as an error
            click.echo(one_line(f"stays: {_in_words(rest)}"))


def _in_words(rest: Rest) -> str:
    size = f" ({in_words(rest.size_bytes)})" if rest.size_bytes else ""
    return f"{rest.kind}: {rest.path}{size}: {rest.way}"


def _as_json(what: Leaving, done: Swept | None) -> dict[str, Any]:
    return {
        "deleted": done is not None,
        "bytes": what.size_bytes,
        "freed_bytes": done.freed_bytes if done else 0,
        "runtimes": [
            {
                "path": str(runtime.path),
                "bytes": runtime.size_bytes,
                "origin": runtime.origin or None,
                "own": runtime.own,
                "leftover": runtime.leftover,
            }
            for runtime in what.runtimes.runtimes
        ],
        "state": [str(path) for path in (*what.state.files, *what.state.trash)],
        "stays": [
            {
                "kind": rest.kind,
                "path": str(rest.path),
                "bytes": rest.size_bytes,
                "way": rest.way,
                "in_use": rest.in_use,
                "failed": rest.failed,
            }
            for rest in what.rest
        ],
        "problems": done.problems if done else [],
    }
