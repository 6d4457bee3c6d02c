"""What the Hub says a repo holds, and which of it a download is about."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from mlxone.core.amounts import first_of
from mlxone.core.errors import HubError, UnsupportedModel, UsageError
from mlxone.hub import client, snapshots
from mlxone.hub.trouble import explained

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling

Info = TypeVar("Info", "ModelInfo", "DatasetInfo")

CARD = "README.md"
LARGEST_CARD = 1 << 20  # bytes; licence and tags stand at its beginning, and no model needs it

# What a text model needs, and its card.
WANTED = (
    "*.json",
    "*.jinja",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*.tiktoken",
    CARD,
    "[0-9]_*/config.json",  # what makes embeddings of a model's output
    "additional_chat_templates/*.jinja",
)
# The same weights again in another layout.
UNWANTED = ("consolidated*.safetensors", "*.fp16.safetensors", "*.fp32.safetensors")
CONFIG = "config.json"
ANSWER_WITHIN = 20.0  # seconds
SHOWN = 12  # file names in a message

_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class File:
    name: str  # with forward slashes
    size: int
    etag: str  # sha256 of large files, git's blob hash of small ones; also the name in the cache

    @property
    def path(self) -> Path:
        return Path(*PurePosixPath(self.name).parts)


@dataclass(frozen=True, slots=True)
class Plan:
    repo: str
    revision: str  # as asked for
    commit: str  # what it means now
    files: tuple[File, ...]
    kind: str = "model"  # or "dataset"

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def root(self) -> Path:
        """Where all of the repo is in the cache."""
        prefix = snapshots.DATASETS if self.kind == "dataset" else snapshots.PREFIX
        return snapshots.repo_folder(self.repo, prefix)

    @property
    def folder(self) -> Path:
        """Where it is in the cache."""
        return self.root / "snapshots" / self.commit


def plan(
    repo: str, revision: str | None = None, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Plan:
    """Asks the Hub what to fetch, with exact sizes: what a text model needs, or what the patterns choose."""
    info = _ask(
        repo,
        revision,
        lambda: client.api().model_info(repo, revision=revision, files_metadata=True, timeout=ANSWER_WITHIN),
    )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    names = _chosen(repo, siblings, include, exclude) if include or exclude else _usual(repo, info)
    files = tuple(sorted((_file(siblings[name]) for name in names), key=_order))
    return Plan(_own_id(repo, info), revision or "main", info.sha or "", files)


def plan_of_dataset(
    repo: str, revision: str | None, choose: Callable[[Collection[str]], Collection[str]]
) -> Plan:
    """The same about a dataset, whose files are chosen among their names."""
    info = _ask(
        f"dataset {repo}",
        revision,
        lambda: client.api().dataset_info(
            repo, revision=revision, files_metadata=True, timeout=ANSWER_WITHIN
        ),
    )
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    files = tuple(sorted((_file(siblings[name]) for name in choose(siblings)), key=_order))
    return Plan(_own_id(repo, info), revision or "main", info.sha or "", files, kind="dataset")


def _ask(repo: str, revision: str | None, question: Callable[[], Info]) -> Info:
    if revision is not None and _leads_elsewhere(revision):  # it becomes a file's name under refs/
        raise UsageError(f"{revision!r} is not a revision", hint="name a branch, a tag or a commit")
    client.check_online(repo)
    with explained(repo, revision):
        info = client.patiently(question)
    if info.sha is None or not _SHA1.fullmatch(info.sha):
        raise HubError(f"the Hub does not say which commit of {repo} is current")
    return info


def _own_id(repo: str, info: ModelInfo | DatasetInfo) -> str:
    """The Hub takes any case; two spellings must not become two folders."""
    return info.id if info.id.lower() == repo.lower() else repo


def _usual(repo: str, info: ModelInfo) -> list[str]:
    siblings = info.siblings or ()
    names = [sibling.rfilename for sibling in siblings if _is_wanted(sibling)]
    weights = any(name.endswith(".safetensors") for name in names)
    gguf = sorted(sibling.rfilename for sibling in siblings if sibling.rfilename.endswith(".gguf"))
    if gguf and not weights:
        some = f"*{gguf[0].rpartition('-')[2]}"
        raise UsageError(
            f"{repo} holds GGUF files: {_listed(gguf)}", hint=f"choose with --include, as in '{some}'"
        )
    if CONFIG not in names:
        raise UnsupportedModel(f"{repo} is not a model in the usual layout: it has no config.json")
    if not weights:
        raise UnsupportedModel(
            f"{repo} has no safetensors weights", hint="look for a conversion in mlx-community"
        )
    return names


def _is_wanted(sibling: RepoSibling) -> bool:
    name = sibling.rfilename
    if name == CARD and (sibling.size or 0) > LARGEST_CARD:
        return False
    fits = any(fnmatch.fnmatchcase(name, p) and p.count("/") == name.count("/") for p in WANTED)
    return fits and not any(fnmatch.fnmatchcase(name, p) for p in UNWANTED)


def _chosen(repo: str, names: Collection[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Patterns choose among all files; one that matches nothing is a typo and no wish."""
    for flag, patterns in (("--include", include), ("--exclude", exclude)):
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in names):
                raise UsageError(
                    f"{flag} {pattern!r} matches no file of {repo}", hint=f"it holds {_listed(names)}"
                )
    left = [name for name in names if not include or any(_matches(name, p) for p in include)]
    left = [name for name in left if not any(_matches(name, p) for p in exclude)]
    if not left:
        raise UsageError(f"--include and --exclude leave no file of {repo}")
    return left


def _matches(name: str, pattern: str) -> bool:
    """As the Hub's own client does: a star also crosses folders, and `folder/` is all that is in it."""
    return fnmatch.fnmatchcase(name, pattern + "*" if pattern.endswith("/") else pattern)


def _listed(names: Collection[str]) -> str:
    return first_of(sorted(names), SHOWN)


def _file(sibling: RepoSibling) -> File:
    """A listing decides where files are written, so nothing of it is taken on trust."""
    name = sibling.rfilename
    if _leads_elsewhere(name):
        raise HubError(f"the Hub lists a file under an impossible name: {name!r}")
    if sibling.size is None or sibling.size < 0:
        raise HubError(f"the Hub does not say how large {name} is")
    etag = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    if etag is None or not (_SHA256 if sibling.lfs else _SHA1).fullmatch(etag):
        raise HubError(f"the Hub does not say what the hash of {name} is")
    return File(name, sibling.size, etag)


def _leads_elsewhere(name: str) -> bool:
    """Whether a relative path could mean another place than it seems to."""
    return "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/"))


def _order(file: File) -> tuple[bool, int, str]:
    """Large files first: what is most likely to fail should fail before time was spent on the rest."""
    return file.name == CONFIG, -file.size, file.name
