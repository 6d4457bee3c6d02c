"""`--adapter [NAME=]DIR` as a person writes it: which folders, and what each is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mlxone.core.errors import AdapterNotFound, UsageError
from mlxone.service.mounts import check_id


def named_folders(given: Sequence[str], shown_as: str) -> dict[str, Path]:
    """By id, in the order they were given. Without a NAME it is the folder's."""
    found: dict[str, Path] = {}
    for word in given:
        name, path = _parts(word)
        _check_name(name, word, shown_as)
        if name in found:
            raise UsageError(
                f"{shown_as} gives two adapters the name {name!r}: {found[name]} and {path}",
                hint="NAME=DIR says another",
            )
        if not os.path.isdir(path):  # also where no path can be so long
            raise AdapterNotFound(
                f"{shown_as} {path} is no folder", hint="an adapter is a folder of two files"
            )
        found[name] = path
    return found


def _parts(word: str) -> tuple[str, Path]:
    """What stands before a = is a name, unless the whole is a folder or the name would be a path."""
    name, equals, rest = word.partition("=")
    if equals and rest and "/" not in name and not os.path.isdir(_folder(word)):
        return name, _folder(rest)
    return _folder(word).absolute().resolve().name, _folder(word)


def _folder(word: str) -> Path:
    try:
        return Path(word).expanduser()
    except RuntimeError:  # a ~user that does not exist
        return Path(word)


def _check_name(name: str, word: str, shown_as: str) -> None:
    try:
        check_id(name)
    except UsageError as error:
        hint = f"NAME=DIR says another: {error.hint}"
        raise UsageError(f"{shown_as} {word}: {error.message}", hint=hint) from None
