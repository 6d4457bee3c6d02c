"""`mlxone get`: a model from the Hub into the standard cache, or a folder; prints where it is."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import known, streams
from mlxone.cli.flags import SectionedCommand, flag
from mlxone.cli.group import verbose_option
from mlxone.cli.models import model_params, named_model
from mlxone.cli.sizes import in_words
from mlxone.core.errors import AmbiguousModel, ModelNotFound, UsageError

if TYPE_CHECKING:
    from mlxone.hub.entry import Entry
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
        flag(
            "Download",
            "--verify",
            "Read the files that are here, too, and fetch the damaged ones again.",
            is_flag=True,
        ),
        flag("Output", "--quiet", "No progress.", is_flag=True),
        known.json_flag("Print a JSON object: repo, revision, commit, folder, files, bytes, bytes_fetched."),
        verbose_option(),
    ],
)
def command(model: str | None, model_flag: str | None, **flags: Any) -> None:
    """Download a model from the Hub, or refresh it.

    MODEL is ORG/REPO, a short name, or a query that matches a model already on disk. Without --include
    and --exclude the files that a language model needs are fetched, of a GGUF model found by a query its
    own. A download that was stopped goes on
    where it was; every file is checked before it appears under its name.
    """
    from mlxone.cli import opening
    from mlxone.hub import client

    model = named_model(model, model_flag, required=True)
    chosen = {name: flags[name] for name in ("include", "exclude") if flags[name]}
    to, quiet, verify = _folder(flags["to"]), flags["quiet"], flags["verify"]
    as_it_is = not chosen and to is None and not verify
    if as_it_is and flags["revision"] is None and _print_starter(model, flags):
        return
    repo, revision, held = _wanted(model, flags["revision"])
    if client.is_offline() and as_it_is:
        _print_held(repo, revision, held, flags)
        return
    if held and held.format == "gguf" and not chosen:
        chosen["include"] = [glob.escape(name) for name in _files(held)]
    plan = opening.ask_hub(repo, revision, quiet=quiet, **chosen)
    folder, fetched = opening.fetch(plan, to=to, quiet=quiet, verify=verify)
    if verify and not quiet:
        bad = f"{in_words(fetched)} of {repo} were missing or damaged, and came anew"
        streams.complain(bad if fetched else f"all files of {repo} are as the Hub has them")
    if flags["json"]:
        known.print_json(_report(plan, folder, fetched))
    else:
        click.echo(folder)


def _wanted(model: str, revision: str | None) -> tuple[str, str | None, Entry | None]:
    """The repo, what of it, and the model that a query found on disk."""
    from mlxone.hub import find

    if revision is not None and not revision.strip():
        raise UsageError("--revision is empty", hint="leave it out for the main branch")
    name, _, at = model.partition("@")
    if revision and at and revision != at:
        raise UsageError(f"{model} and --revision {revision} say two things", hint="leave one of them out")
    wanted = revision or at or None
    repo = find.repo_for(name)
    if repo:
        return repo, wanted, None
    held = _on_disk(name)
    return held.repo_id, wanted, held


def _on_disk(query: str) -> Entry:
    """Whole or not, and whether it can be run or not."""
    from mlxone.hub.registry import Registry
    from mlxone.hub.sources import HUGGING_FACE, STARTER

    with Registry() as registry:
        entry = registry.match(query)
    if entry.source not in (HUGGING_FACE, STARTER):
        raise ModelNotFound(f"{query} is not from the Hub", hint="name what to get as ORG/REPO")
    return entry


def _folder(to: str | None) -> Path | None:
    if to is None:
        return None
    if not to.strip():
        raise UsageError("--to is empty", hint="name a folder")
    return Path(to).expanduser()


def _print_starter(model: str, flags: dict[str, Any]) -> bool:
    """Whether the starter was asked for by that name and is here: it is prepared from the repo, not it."""
    from mlxone.hub import places, starter

    folder = starter.at_hand() if model.strip() == starter.STARTER else None
    if folder is None:
        return False
    if not flags["quiet"]:
        where = "inside this program" if folder == places.bundled_starter() else "already"
        streams.complain(f"the starter is here {where}; `mlxone get {starter.REPO}` gets its original")
    _print_folder(starter.REPO, folder, [path.name for path in sorted(folder.iterdir())], flags)
    return True


def _print_held(repo: str, revision: str | None, held: Entry | None, flags: dict[str, Any]) -> None:
    """Offline the answer is what is here, if it is all here."""
    from mlxone.hub import client
    from mlxone.hub.entry import usability

    if held is None or revision:
        held = _held(repo, revision)
    if held is None or not usability(held):
        raise client.offline(repo)
    if not flags["quiet"]:
        streams.complain(
            f"HF_HUB_OFFLINE is set: {repo} is on this machine, and was not looked for on the Hub"
        )
    folder = _snapshot(held)
    _print_folder(held.repo_id, folder, _files(held), flags, revision, held.revision)


def _print_folder(
    repo: str,
    folder: Path,
    files: list[str],
    flags: dict[str, Any],
    revision: str | None = None,
    commit: str | None = None,
) -> None:
    """What `get` answers where nothing had to be fetched."""
    if not flags["json"]:
        click.echo(folder)
        return
    known.print_json(
        {
            "repo": repo,
            "revision": revision,
            "commit": commit,
            "folder": str(folder),
            "files": files,
            "bytes": sum((folder / name).stat().st_size for name in files),
            "bytes_fetched": 0,
        }
    )


def _held(repo: str, revision: str | None) -> Entry | None:
    """This repo, and no other that has its words in its name."""
    from mlxone.hub.registry import Registry

    try:
        with Registry() as registry:
            entry = registry.match(f"{repo}@{revision}" if revision else repo)
    except (ModelNotFound, AmbiguousModel):
        return None
    return entry if entry.repo_id.lower() == repo.lower() else None


def _snapshot(entry: Entry) -> Path:
    """The folder that `get` prints: for a GGUF file the one its repo's files are in."""
    if entry.path.is_dir():
        return entry.path
    return next((p for p in entry.path.parents if p.name == entry.revision), entry.path.parent)


def _files(entry: Entry) -> list[str]:
    """A GGUF file with its further parts, of anything else all that is in its folder."""
    from mlxone.hub.describe import part_number

    folder = _snapshot(entry)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if entry.format == "gguf":
        files = [p for p in files if p.suffix == ".gguf"]
    if entry.path != folder:
        stem, _ = part_number(str(entry.path))
        files = [p for p in files if part_number(str(p))[0] == stem]
    return [p.relative_to(folder).as_posix() for p in files]


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
