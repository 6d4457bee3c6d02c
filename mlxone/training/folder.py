"""A run's folder: which files in it are the run's, one writer at a time, and nothing half written.

What is saved is written beside its name, flushed to the disk and renamed last, so that a kill or a full
disk at any moment leaves either the old file or the new one. Nobody else's adapter is replaced unasked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mlxone.core.errors import StorageError, UsageError

ADAPTER = "adapters.safetensors"
CONFIG = "adapter_config.json"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"
REFERENCES = "references.json"
PEFT = "peft"  # a folder of its own: both formats have an adapter_config.json
RESULTS = (ADAPTER, CONFIG, STATE, "adapter_model.safetensors")  # any of these is somebody's work
BEGUN = ".partial."  # before the name of what is being written, the adapter's too
FULL = "free some space, then go on with --resume: what was saved before is intact"


class RunFolder:
    """Made if need be, and held until it is closed."""

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        if resume and overwrite:
            raise UsageError("resume and overwrite contradict each other")
        check_free(path, resume=resume, overwrite=overwrite)
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
            self._held: int | None = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UsageError(f"another run is writing into {path}", hint="choose another folder") from None
        self._sweep()
        if overwrite:  # first of all the state, which must not go with another run's metrics
            for name in (STATE, METRICS):
                with storing(path / name):
                    (path / name).unlink(missing_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def close(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sweep(self) -> None:
        """What a killed run left half written."""
        for left in self.path.glob(f"{BEGUN}*"):
            with contextlib.suppress(OSError):
                left.unlink()


def check_free(path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Whether a run may begin, or go on, in this folder."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder", param="adapter_path")
    if resume:
        if not (path / STATE).is_file():
            raise UsageError(f"{path} holds no run to go on with", hint="leave --resume out to begin one")
        return
    found = next((name for name in RESULTS if (path / name).exists()), None)
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
        raise StorageError(f"{path} cannot be saved: {error.strerror or error}", hint=FULL) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, which becomes `path` if nothing went wrong."""
    beside = _beside(path)
    try:
        with storing(path):
            yield beside
            _flush(beside)
            os.replace(beside, path)
            _flush(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _beside(path: Path) -> Path:
    return path.with_name(BEGUN + path.name)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
