"""Datasets of the Hub: which of their files are data, and those files in the standard cache.

Local first: what is in the cache whole is used without asking anybody. A dataset has one or more
configurations (folders of their own); of several the default one is meant, or the one that was named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlxone.core.amounts import first_of
from mlxone.core.errors import DataError, HubError, ModelNotFound
from mlxone.hub import client, download, snapshots
from mlxone.hub.repo import plan_of_dataset
from mlxone.hub.watch import Watch

# ORG/NAME, then perhaps :CONFIG, then perhaps @REVISION
_NAMED = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?::([\w.-]+))?(?:@([^@\s]+))?")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})$")
_COMMIT = re.compile(r"[0-9a-f]{40}")

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")  # the best first: only the last needs a package
SPLITS = {"train": ("train",), "valid": ("valid", "val", "validation", "dev"), "test": ("test",)}
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json")
DEFAULTS = ("", "default")  # configurations that are meant where none is named


@dataclass(frozen=True, slots=True)
class Wanted:
    repo: str
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"dataset {self.repo}" + (f" at {self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class DataFile:
    name: str  # below the folder, with forward slashes
    split: str | None  # None: the files say nothing of splits


@dataclass(frozen=True, slots=True)
class Found:
    folder: Path
    files: tuple[DataFile, ...]


def parse(text: str) -> Wanted | None:
    named = _NAMED.fullmatch(text)
    return Wanted(named[1], named[2], named[3]) if named else None


def fetch(wanted: Wanted, check_parquet: Callable[[str], object], watch: Watch | None = None) -> Found:
    """`check_parquet` is called with a file's name before such files are fetched, and may refuse."""
    folder = cached(wanted)
    if folder is not None:
        return Found(folder, choose(_names(folder), wanted))
    try:
        plan = plan_of_dataset(wanted.repo, wanted.revision, lambda names: _names_of(choose(names, wanted)))
    except ModelNotFound as error:
        raise DataError(
            f"{wanted.repo} is no file or folder here, and on the Hub: {error.message}", hint=error.hint
        ) from error
    except HubError as error:
        if client.is_offline():
            why, hint = "HF_HUB_OFFLINE is set, so it is not fetched", "check the path, or unset it"
        else:
            why, hint = error.message, f"check the path; {error.hint}" if error.hint else "check the path"
        raise HubError(f"{wanted.repo} is no file or folder here, and {why}", hint=hint) from error
    parquet = next((file.name for file in plan.files if file.name.endswith(".parquet")), None)
    if parquet:
        check_parquet(parquet)
    return Found(download.fetch(plan, watch), choose([file.name for file in plan.files], wanted))


def cached(wanted: Wanted) -> Path | None:
    """Its folder in the cache, if all that would be read is there."""
    root = snapshots.repo_folder(wanted.repo, snapshots.DATASETS)
    revision = wanted.revision or "main"
    commit = snapshots.ref(root, revision) or (revision if _COMMIT.fullmatch(revision) else None)
    if commit is None or not _COMMIT.fullmatch(commit):
        return None
    folder = root / "snapshots" / commit
    try:
        files = choose(_names(folder), wanted)
    except DataError:
        return None
    return folder if _is_whole([file.name for file in files]) else None


def _is_whole(names: Collection[str]) -> bool:
    """Other tools fetch file by file; shards say how many they should be."""
    shards: dict[tuple[str, int], int] = {}
    for name in names:
        found = _SHARD.fullmatch(PurePosixPath(name).with_suffix("").as_posix())
        if found:
            shards[found[1], int(found[3])] = shards.get((found[1], int(found[3])), 0) + 1
    return all(count == of for (_, of), count in shards.items())


def choose(names: Iterable[str], wanted: Wanted) -> tuple[DataFile, ...]:
    """The files of one configuration, in one form; those of a split in the order of their names."""
    names = sorted(names)
    data = [name for name in names if _is_data(name)]
    if not data:
        holds = f"it holds {first_of(names)}" if names else "it is empty"
        raise DataError(
            f"{wanted} has no data file that can be read ({', '.join(SUFFIXES)})",
            hint=f"{holds}: download it and convert it to JSONL",
        )
    chosen = [name for name in data if _config(name) == _chosen_config(data, wanted)]
    suffix = next(suffix for suffix in SUFFIXES if any(name.endswith(suffix) for name in chosen))
    files = [DataFile(name, _split(name)) for name in chosen if name.endswith(suffix)]
    named = [file for file in files if file.split]
    _check_one_each(named or files, wanted)
    return tuple(named or files)


def _check_one_each(files: Collection[DataFile], wanted: Wanted) -> None:
    """Files that differ in more than numbers are other sets, and not more of the same."""
    sets: dict[tuple[str | None, str], str] = {}
    for file in files:
        sets.setdefault((file.split, re.sub(r"\d+", "", file.name)), file.name)
    for split in {file.split for file in files}:
        names = [name for (of, _), name in sets.items() if of == split]
        if len(names) > 1:
            raise DataError(
                f"{wanted} has more than one {split or 'data'} set: {first_of(names)}",
                hint="download the one that is meant and name its file",
            )


def _chosen_config(data: Collection[str], wanted: Wanted) -> str:
    configs = sorted({_config(name) for name in data})
    if wanted.config is not None:
        if wanted.config not in configs:
            raise DataError(f"{wanted} has no configuration {wanted.config}", hint=_listed(configs))
        return wanted.config
    default = next((config for config in DEFAULTS if config in configs), None)
    if default is None and len(configs) > 1:
        hint = f"choose one, as in {wanted.repo}:{configs[0]}"
        raise DataError(f"{wanted} has several configurations: {first_of(configs)}", hint=hint)
    return configs[0] if default is None else default


def _listed(configs: list[str]) -> str:
    return f"it has {first_of([config or 'only the default' for config in configs])}"


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix in SUFFIXES and path.name not in ABOUT and not hidden


def _config(name: str) -> str:
    """The folder a file is in, less what says only that there is data in it, or of which split."""
    parts = [part for part in PurePosixPath(name).parent.parts if part != "data" and not _word(part)]
    return "/".join(parts)


def _split(name: str) -> str | None:
    """By the file's own name, then by its folders, the innermost first."""
    return next(filter(None, map(_word, reversed(PurePosixPath(name).with_suffix("").parts))), None)


def _word(text: str) -> str | None:
    words = re.split(r"[^a-z]+", text.lower())
    return next((split for split, known in SPLITS.items() if any(word in known for word in words)), None)


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _names_of(files: Iterable[DataFile]) -> list[str]:
    return [file.name for file in files]
