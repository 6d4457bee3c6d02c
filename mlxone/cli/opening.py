"""From the model a user named to one on this machine, or a loaded one: asks, downloads, says what goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlxone.cli import terminal
from mlxone.cli.sizes import in_words
from mlxone.cli.terminal import StatusLine
from mlxone.core.errors import ModelNotFound

if TYPE_CHECKING:
    from mlxone.hub.find import Found
    from mlxone.hub.repo import Plan
    from mlxone.service.model import Model

T = TypeVar("T")


def open_model(
    query: str, *, chat_template: Path | None = None, pull: bool = False, quiet: bool = False
) -> Model:
    return _offering(query, lambda: _load(query, chat_template, quiet), pull=pull, quiet=quiet)


def find_model(query: str, *, folders: Sequence[str] = (), pull: bool = False, quiet: bool = False) -> Found:
    """Where it is, without loading it."""
    from mlxone.hub import find

    return _offering(query, lambda: find.find(query, folders), pull=pull, quiet=quiet)


def _offering(query: str, attempt: Callable[[], T], *, pull: bool, quiet: bool) -> T:
    """Tries once more after a download, where the model is missing and one is wanted."""
    from mlxone.hub import find
    from mlxone.hub.starter import STARTER

    if query == STARTER:
        _fetch_starter(quiet)
    try:
        return attempt()
    except ModelNotFound:
        name, _, revision = query.partition("@")
        repo = find.repo_for(name)
        if repo is None or not (pull or _may_ask()):
            raise
        if not download(repo, revision=revision or None, quiet=quiet, ask=not pull):
            raise
    return attempt()


def download(
    repo: str, *, revision: str | None = None, quiet: bool = False, ask: bool = False
) -> Path | None:
    """The snapshot's folder, or None when the user says no."""
    plan = ask_hub(repo, revision, quiet=quiet)
    if ask and not _agrees(f"{repo} is not on this machine. Download {in_words(plan.total_bytes)}? [Y/n] "):
        return None
    return fetch(plan, quiet=quiet)[0]


def ask_hub(repo: str, revision: str | None, *, quiet: bool = False, **patterns: Sequence[str]) -> Plan:
    from mlxone.hub import download as hub

    status = StatusLine(quiet=quiet)
    status.show(f"asking the Hub about {repo}")
    try:
        return hub.plan(repo, revision, **patterns)
    finally:
        status.clear()


def fetch(
    plan: Plan, *, to: Path | None = None, quiet: bool = False, verify: bool = False
) -> tuple[Path, int]:
    """The folder, and how many bytes came over the network."""
    from mlxone.cli.transfer import Transfer
    from mlxone.hub import download as hub

    with Transfer(quiet=quiet, verify=verify) as transfer:
        return hub.fetch(plan, transfer, to=to, verify=verify), transfer.fetched


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

    with Transfer(quiet=quiet) as transfer:
        starter(transfer)


def _may_ask() -> bool:
    return terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stderr)


def _agrees(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    # No line at all is the end of input, not a bare Enter.
    return answer.endswith("\n") and answer.strip().lower() in ("", "y", "yes")
