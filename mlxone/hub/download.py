"""A repo from the Hub into the standard cache: what would be fetched, then fetching it.

Weights come first and are checked; config.json comes last, so a download that was cut off is not
mistaken for a model. The Hub client is imported inside functions: it is not needed to run a model.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxone.core.errors import HubError, StorageError, UnsupportedModel
from mlxone.hub import places
from mlxone.hub.trouble import explained

if TYPE_CHECKING:
    from huggingface_hub.hf_api import HfApi, RepoSibling

Progress = Callable[[int, int], None]

WANTED = (
    "*.json",
    "*.jinja",
    "*.safetensors",
    "*.txt",
    "tokenizer.model",
    "additional_chat_templates/*.jinja",
)
# The same weights again in another layout.
UNWANTED = ("consolidated*.safetensors", "*.fp16.safetensors", "*.fp32.safetensors")
LAST = "config.json"
SPARE = 64 << 20  # bytes of disk to leave free
TIMEOUT = 20.0  # seconds for the Hub's first word


@dataclass(frozen=True, slots=True)
class File:
    name: str
    size: int
    sha256: str | None  # what the Hub says of large files; small ones are checked by size


@dataclass(frozen=True, slots=True)
class Plan:
    repo: str
    revision: str  # as asked for
    commit: str  # what it means now
    files: tuple[File, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def folder(self) -> Path:
        return _storage(self.repo) / "snapshots" / self.commit


def plan(repo: str, revision: str | None = None) -> Plan:
    """Asks the Hub what a text model of this repo needs, with exact sizes."""
    with explained(repo, revision):
        info = _hub().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
    files = tuple(sorted(map(_file, filter(_is_wanted, info.siblings or ())), key=_order))
    names = {file.name for file in files}
    if LAST not in names:
        raise UnsupportedModel(f"{repo} is not a model in the usual layout: it has no config.json")
    if not any(name.endswith(".safetensors") for name in names):
        raise UnsupportedModel(
            f"{repo} has no safetensors weights", hint="look for a conversion in mlx-community"
        )
    if info.sha is None:
        raise HubError(f"the Hub does not say which commit of {repo} is current")
    return Plan(repo, revision or "main", info.sha, files)


def fetch(plan: Plan, progress: Progress | None = None) -> Path:
    """Downloads what is missing and returns the snapshot's folder."""
    missing = [file for file in plan.files if not _is_there(plan, file)]
    done = plan.total_bytes - sum(file.size for file in missing)
    _check_space(plan, sum(file.size for file in missing))
    counter = _Counter(progress or (lambda done, total: None), done, plan.total_bytes)
    for file in missing:
        counter.start(file)
        with explained(plan.repo, plan.revision):
            _fetch_file(plan, file, counter)
        counter.finish(file)
    with explained(plan.repo, plan.revision):
        _point(_storage(plan.repo) / "refs" / plan.revision, plan.commit)
    return plan.folder


def _hub() -> HfApi:
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are its own business
    return HfApi(endpoint=_endpoint(), library_name="mlxone")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _storage(repo: str) -> Path:
    return places.hf_cache() / ("models--" + repo.replace("/", "--"))


def _is_wanted(sibling: RepoSibling) -> bool:
    name = sibling.rfilename
    folder = name.rpartition("/")[0]
    fits = any(fnmatch.fnmatchcase(name, p) and p.rpartition("/")[0] == folder for p in WANTED)
    return fits and not any(fnmatch.fnmatchcase(name, p) for p in UNWANTED)


def _file(sibling: RepoSibling) -> File:
    if sibling.size is None:
        raise HubError(f"the Hub does not say how large {sibling.rfilename} is")
    return File(sibling.rfilename, sibling.size, sibling.lfs.sha256 if sibling.lfs else None)


def _order(file: File) -> tuple[bool, int, str]:
    """Large files first: what is most likely to fail should fail before time was spent on the rest."""
    return file.name == LAST, -file.size, file.name


def _is_there(plan: Plan, file: File) -> bool:
    try:
        return (plan.folder / file.name).stat().st_size == file.size
    except OSError:
        return False


def _check_space(plan: Plan, needed: int) -> None:
    cache = places.hf_cache()
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed and free < needed + SPARE:
        raise StorageError(
            f"{plan.repo} needs {needed / 1e9:.2f} GB and {cache} has {free / 1e9:.2f} GB free",
            hint="free some space, or set HF_HUB_CACHE to a folder on another disk",
        )


def _fetch_file(plan: Plan, file: File, counter: _Counter) -> None:
    from huggingface_hub import hf_hub_download

    path = Path(
        hf_hub_download(
            plan.repo,
            file.name,
            revision=plan.commit,
            cache_dir=places.hf_cache(),
            endpoint=_endpoint(),
            library_name="mlxone",
            tqdm_class=counter.bar(),
        )
    )
    reason = _damage(path, file)
    if reason:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(f"{file.name} of {plan.repo} arrived damaged ({reason})", hint="try again")


def _damage(path: Path, file: File) -> str | None:
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes, not {file.size}"
    if file.sha256 is None:
        return None
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    return None if found == file.sha256 else "its hash differs"


def _point(ref: Path, commit: str) -> None:
    """Writes the branch's commit in one step, so nobody ever reads half of it."""
    if ref.name == commit:
        return
    ref.parent.mkdir(parents=True, exist_ok=True)
    beside = ref.with_name(
        f".{ref.name}-{os.getpid()}"
    )  # with the user's own mode: others may read the cache
    try:
        beside.write_text(commit, encoding="ascii")
        beside.replace(ref)
    finally:
        beside.unlink(missing_ok=True)


class _Counter:
    """Bytes done over all files, told to `progress`; looks enough like a tqdm class for the client."""

    def __init__(self, progress: Progress, done: int, total: int) -> None:
        self.progress, self.done, self.total = progress, done, total
        self.begun = done  # where the current file began
        self.limit = total  # where it ends

    def start(self, file: File) -> None:
        self.begun, self.limit = self.done, self.done + file.size
        self.progress(self.done, self.total)

    def add(self, count: float) -> None:
        # A retried file is counted again by the client; more than the file itself is never reported.
        self.done = max(self.begun, min(self.done + int(count), self.limit))
        self.progress(self.done, self.total)

    def finish(self, file: File) -> None:
        self.done = self.begun + file.size
        self.progress(self.done, self.total)

    def bar(self) -> Any:
        counter = self

        class Bar:
            """The part of tqdm's interface that the client uses, for plain and for Xet downloads."""

            def __init__(self, *_: Any, initial: float = 0, total: float | None = None, **__: Any) -> None:
                self.n, self.total = initial, total
                if initial:
                    counter.add(initial)

            def update(self, n: float = 1) -> None:
                self.n += n
                counter.add(n)

            def update_transfer(self, n: float) -> None:
                """Bytes from the network; `update` counts the same bytes when they reach the disk."""

            def ignore(self, *_: Any, **__: Any) -> None: ...

            set_postfix_str = set_transfer_postfix_str = set_description = refresh = close = ignore

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *_: object) -> None: ...

        return Bar
