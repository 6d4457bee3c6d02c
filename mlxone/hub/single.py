"""A model named by its path: a folder or a GGUF file anywhere, in no source and in no database."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mlxone.core.errors import DamagedModel, ModelNotFound
from mlxone.hub.contents import list_tree, look
from mlxone.hub.describe import Subject, describe_gguf
from mlxone.hub.entry import Entry
from mlxone.hub.query import as_path, is_plainly_a_path
from mlxone.hub.snapshots import is_model
from mlxone.hub.sources import Source

PATH = "path"  # what such an entry has for a source


def read_one(query: str) -> Entry | None:
    """The entry of a path; None where the query is rather a name, though a folder may be called so."""
    path = as_path(query)
    if is_model(path) or is_plainly_a_path(query):
        return at(path)
    return None


def at(path: Path) -> Entry:
    check(path)
    whole = path.absolute()
    if path.suffix == ".gguf":
        subject = Subject(path.stem, PATH, whole, os.stat(path).st_size)
        sees = any("mmproj" in name.lower() for name in list_tree(str(whole.parent), 0).sizes)
        return describe_gguf(subject, [whole], sees=sees).entry
    found = look(Source(PATH, whole, 0), str(whole), 0).entries
    if not found:
        raise not_a_model(path)
    return replace(found[0], repo=path.resolve().name)


def check(path: Path) -> None:
    """That something is there which may be a model."""
    if not os.path.exists(path):
        raise ModelNotFound(f"{path} does not exist")
    if path.suffix != ".gguf" and not os.path.isdir(path):
        raise ModelNotFound(f"{path} is a file", hint="name the model's folder, where config.json is")
    if path.suffix != ".gguf" and not is_model(path):
        raise not_a_model(path)


def not_a_model(path: Path) -> DamagedModel:
    return DamagedModel(f"{path} is not a model folder: it has no config.json")
