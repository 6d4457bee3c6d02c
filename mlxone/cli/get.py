"""`mlxone get`: a model from the Hub into the standard cache, or a folder; prints where it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.core.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from mlxone.hub.repo import Plan


@click.command(
    "get",
    cls=SectionedCommand,
    params=[
        *model_params(),
        flag("Download", "--revision", "A branch, tag or commit; else the main branch.", "REV"),
        flag(
            "Download",
            "--include",
            "Files to fetch in place of the usual ones; may be repeated.",
            "GLOB",
            multiple=True,
        ),
        flag(
            "Download",
            "--exclude",
            "Files not to fetch of all there are; may be repeated.",
            "GLOB",
            multiple=True,
        ),
        flag("Download", "--to", "A folder for plain files, in place of the cache.", "DIR"),
        flag("Output", "--quiet", "No progress.", is_flag=True),
        known.json_flag("Print a JSON object: repo, revision, commit, folder, files, bytes, bytes_fetched."),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Download a model from the Hub, or refresh it.

    MODEL is ORG/REPO, a short name, or a query that matches a model already on disk. Without --include
    and --exclude the files that a language model needs are fetched. A download that was stopped goes on
    where it was; every file is checked before it appears under its name.
    """
    from mlxone.cli import opening
    from mlxone.hub import client

    repo, revision = _wanted(named_model(model, model_flag, required=True), flags["revision"])
    chosen = {name: flags[name] for name in ("include", "exclude") if flags[name]}
    to = _folder(flags["to"])
    if client.is_offline() and not chosen and to is None:
        _print_held(repo, revision, flags)
        return
    plan = opening.ask_hub(repo, revision, quiet=flags["quiet"], **chosen)
    folder, fetched = opening.fetch(plan, to=to, quiet=flags["quiet"])
    if flags["json"]:
        known.print_json(_report(plan, folder, fetched))
    else:
        click.echo(folder)


def _wanted(model: str, revision: str | None) -> tuple[str, str | None]:
    from mlxone.hub import find

    if revision is not None and not revision.strip():
        raise UsageError("--revision is empty", hint="leave it out for the main branch")
    name, _, at = model.partition("@")
    if revision and at and revision != at:
        raise UsageError(f"{model} and --revision {revision} say two things", hint="leave one of them out")
    return find.repo_for(name) or _repo_on_disk(model), revision or at or None


def _repo_on_disk(query: str) -> str:
    from mlxone.hub import find

    repo = find.find(query).repo
    if repo is None:
        raise ModelNotFound(f"{query} is not from the Hub", hint="name what to get as ORG/REPO")
    return repo


def _folder(to: str | None) -> Path | None:
    if to is None:
        return None
    if not to.strip():
        raise UsageError("--to is empty", hint="name a folder")
    return Path(to).expanduser()


def _print_held(repo: str, revision: str | None, flags: dict[str, Any]) -> None:
    """Offline the answer is what is here, if it is all here."""
    from mlxone.hub import client, find

    try:
        folder = find.find(f"{repo}@{revision}" if revision else repo).path
    except ModelNotFound:
        client.check_online(repo)
        raise
    if not flags["quiet"]:
        streams.complain(
            f"HF_HUB_OFFLINE is set: {repo} is on this machine, and was not looked for on the Hub"
        )
    if not flags["json"]:
        click.echo(folder)
        return
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    known.print_json(
        {
            "repo": repo,
            "revision": revision or "main",
            "commit": folder.name,
            "folder": str(folder),
            "files": sorted(files),
            "bytes": sum(files.values()),
            "bytes_fetched": 0,
        }
    )


def _report(plan: Plan, folder: Path, fetched: int) -> dict[str, Any]:
    return {
        "repo": plan.repo,
        "revision": plan.revision,
        "commit": plan.commit,
        "folder": str(folder),
        "files": sorted(file.name for file in plan.files),
        "bytes": plan.total_bytes,
        "bytes_fetched": fetched,
    }
