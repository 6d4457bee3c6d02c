"""A run's folder: which files in it are the run's, one writer at a time, and nothing half written.

What is saved is written beside its name, flushed to the disk and renamed last, so that a kill or a full
disk at any moment leaves either the old file or the new one. Nobody else's adapter is replaced unasked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mlxone.core.errors import StorageError, UsageError
from mlxone.formats.durable import make_durable

ADAPTER = "adapters.safetensors"
CONFIG = "adapter_config.json"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"
RUN = "run.json"
REFERENCES = "references.json"
PEFT = "peft"  # a folder of its own: both formats have an adapter_config.json
PEFT_ADAPTER = "adapter_model.safetensors"
RESULTS = (ADAPTER, CONFIG, STATE, PEFT_ADAPTER)  # any of these is somebody's work
BEGUN = ".partial."  # before the name of what is being written, the adapter's too
TRIES, PAUSE = 10, 0.02  # s; who only looks whether a run is held holds it for a moment, too
FULL = "free some space, then go on with --resume: what was saved before is intact"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class RunFolder:
    """Made if need be, and held until it is closed."""

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        check_free(path, resume=resume, overwrite=overwrite)
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
            self._held: int | None = os.open(path, os.O_RDONLY)
        try:
            if not _locked(self._held):
                raise UsageError(f"another run is writing into {path}", hint="choose another folder")
            check_free(path, resume=resume, overwrite=overwrite)  # another may have ended just now
            self._sweep()
            if overwrite:
                self._forget()
        except BaseException:
            self.close()
            raise

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def adapter_step(self) -> int | None:
        """The step that the adapter here is of; it may be older than the state, or newer."""
        try:
            step = json.loads((self / CONFIG).read_bytes())["mlxone"]["step"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return step if isinstance(step, int) else None

    def close(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        """The run that was here. First of all its state, which must not go with another run's metrics; what
        was exported of it, since nothing may take its place. Its adapter stays until there is a new one."""
        for name in (STATE, METRICS, RUN, f"{PEFT}/{CONFIG}", f"{PEFT}/{PEFT_ADAPTER}"):
            with storing(self / name):
                (self / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """What a killed run left half written."""
        for left in self.path.glob(f"{BEGUN}*"):
            with contextlib.suppress(OSError):
                left.unlink()


def check_free(path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Whether a run may begin, or go on, in this folder."""
    if resume and overwrite:
        raise UsageError("resume and overwrite contradict each other")
    if os.path.exists(path) and not path.is_dir():
        raise UsageError(f"{path} is not a folder", param="adapter_path")
    if resume:
        if not os.path.isfile(path / STATE):
            raise UsageError(f"{path} holds no run to go on with", hint="leave --resume out to begin one")
        return
    found = next((name for name in RESULTS if os.path.exists(path / name)), None)
    if found is not None and not overwrite:
        raise UsageError(
            f"{path} holds an adapter already ({found})",
            hint="--resume goes on with it, --overwrite replaces it, --adapter-path names another folder",
            param="adapter_path",
        )


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """What the disk says against it, as one line that names the file."""
    try:
        yield
    except OSError as error:
        hint = FULL if error.errno in NO_ROOM else "--adapter-path names another folder"
        raise StorageError(f"{path} cannot be saved: {error.strerror or error}", hint=hint) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, which becomes `path` if nothing went wrong."""
    beside = _beside(path)
    try:
        with storing(path):
            yield beside
            make_durable(beside)
            os.replace(beside, path)
            make_durable(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _locked(descriptor: int) -> bool:
    for _ in range(TRIES):
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(PAUSE)
    return False


def _beside(path: Path) -> Path:
    return path.with_name(BEGUN + path.name)
