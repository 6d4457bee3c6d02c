"""From the model a user named to a loaded one: asks, downloads and says what is going on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlxone.cli import terminal
from mlxone.cli.terminal import StatusLine
from mlxone.core.errors import ModelNotFound

if TYPE_CHECKING:
    from mlxone.service.model import Model


def open_model(
    query: str, *, chat_template: Path | None = None, pull: bool = False, quiet: bool = False
) -> Model:
    from mlxone.hub import find
    from mlxone.hub.starter import STARTER

    if query == STARTER:
        _fetch_starter(quiet)
    try:
        return _load(query, chat_template, quiet)
    except ModelNotFound:
        name, _, revision = query.partition("@")
        repo = find.repo_for(name)
        if repo is None or not (pull or _may_ask()):
            raise
        if not download(repo, revision=revision or None, quiet=quiet, ask=not pull):
            raise
    return _load(query, chat_template, quiet)


def download(
    repo: str, *, revision: str | None = None, quiet: bool = False, ask: bool = False
) -> Path | None:
    """The snapshot's folder, or None when the user says no."""
    from mlxone.cli.transfer import Transfer
    from mlxone.hub import download as hub

    status = StatusLine(quiet=quiet)
    status.show(f"asking the Hub about {repo}")
    try:
        plan = hub.plan(repo, revision)
    finally:
        status.clear()
    if ask and not _agrees(f"{repo} is not on this machine. Download {in_words(plan.total_bytes)}? [Y/n] "):
        return None
    with Transfer(f"{repo} ({in_words(plan.total_bytes)})", quiet=quiet) as transfer:
        return hub.fetch(plan, transfer.update)


def in_words(size: int) -> str:
    """A size in decimal units, as everywhere in this program."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _load(query: str, chat_template: Path | None, quiet: bool) -> Model:
    status = StatusLine(quiet=quiet)
    status.show(f"loading {query}")
    try:
        from mlxone.service import loading

        return loading.load(query, chat_template=chat_template)
    finally:
        status.clear()


def _fetch_starter(quiet: bool) -> None:
    """`load` would fetch it too, but in silence."""
    from mlxone.cli.transfer import Transfer
    from mlxone.hub.starter import starter

    with Transfer("the starter model", quiet=quiet) as transfer:
        starter(transfer.update)


def _may_ask() -> bool:
    return terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stderr)


def _agrees(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    # No line at all is the end of input, not a bare Enter.
    return answer.endswith("\n") and answer.strip().lower() in ("", "y", "yes")
