"""The registry as the verbs use it: its notices on stderr, an entry as JSON, sizes in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxone.cli import streams
from mlxone.cli.flags import Flag, flag
from mlxone.cli.terminal import one_line

if TYPE_CHECKING:
    from mlxone.hub.entry import Entry
    from mlxone.service.registry import Registry


def model_dir_flag() -> Flag:
    return flag(
        "Models", "--model-dir", "A further folder with models; may be repeated.", "DIR", multiple=True
    )


def json_flag(help: str) -> Flag:
    return flag("Output", "--json", help, is_flag=True)


@contextmanager
def registry(model_dirs: Sequence[str]) -> Iterator[Registry]:
    """What it has to say comes last, where it is read."""
    from mlxone.service.registry import Registry

    known = Registry(folders=[Path(folder) for folder in model_dirs])
    try:
        yield known
    finally:
        for notice in known.notices:
            streams.complain(f"mlxone: {one_line(notice)}")


def entry_json(entry: Entry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return {
        **values,
        "path": str(entry.path),
        "capabilities": sorted(entry.capabilities),
        "facts": entry.facts.to_json() if entry.facts else None,
    }


def print_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def support_in_words(entry: Entry) -> str:
    if entry.problem:
        return f"no: {problem_in_words(entry)}"
    if entry.support is None:
        return "?"
    return f"no: {entry.support}" if entry.support else "yes"


def problem_in_words(entry: Entry) -> str:
    """Without the folder, where that is said beside it."""
    return (entry.problem or "").replace(f"{entry.path}/", "")


def yes_or_no(answer: bool | None) -> str:
    return "?" if answer is None else "yes" if answer else "no"
