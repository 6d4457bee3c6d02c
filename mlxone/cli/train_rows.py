"""A run's folder as seen from elsewhere: the lines of its metrics as they come, and how it stands.

Needs neither MLX nor the process that trains. A run that is gone on with cuts its metrics back by putting
another file in the place of the old one; whoever follows then begins at its first line again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.core.errors import MlxoneError
from mlxone.training.folder import METRICS, RUN, STATE
from mlxone.training.tensor_file import read_metadata

Row = dict[str, Any]
ENTRY = "mlxone_run"  # what a saved state says of its run: `checkpoints.ENTRY`, which needs MLX


class Tail:
    """Whole lines only: what is half written is read when the rest is there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None  # which one on the disk
        self._at = 0

    def read(self) -> tuple[bool, list[Row]]:
        """What is new since the last call, and whether that begins anew."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                identity = found.st_dev, found.st_ino
                anew = identity != self._file or found.st_size < self._at
                self._file, self._at = identity, 0 if anew else self._at
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            anew, self._file, self._at = self._file is not None, None, 0
            return anew, []
        if whole:
            self._at += len(whole) + 1
        return anew, [row for line in whole.splitlines() if (row := _row(line))]


def rows_to(folder: Path, step: int) -> list[Row]:
    """What a run that goes on after `step` had measured before."""
    return [row for row in Tail(folder / METRICS).read()[1] if row["step"] <= step]


def is_held(folder: Path) -> bool:
    """Whether a run writes into it: such a run has a lock, which ends with its process."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a run says of itself; one that was killed says that it is running."""

    status: str
    step: int
    steps: int
    reason: str


def standing(folder: Path) -> Standing | None:
    try:
        said = json.loads((folder / RUN).read_bytes())
        return Standing(str(said["status"]), int(said["step"]), int(said["steps"]), said["reason"] or "")
    except (OSError, KeyError, ValueError, TypeError, OverflowError):
        return None


def saved(folder: Path) -> tuple[int, int] | None:
    """The step of the last save, and how many the run has; None where nothing is saved that can be read."""
    try:
        entry = json.loads(read_metadata(folder / STATE)[ENTRY])
        return int(entry["step"]), int(entry["history"]["steps"])
    except (OSError, KeyError, ValueError, TypeError, OverflowError, MlxoneError):
        return None


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if isinstance(step, int) and not isinstance(step, bool) else None
