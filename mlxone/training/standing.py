"""run.json: how a run stands, or why it is over, for whoever follows it from elsewhere; whole at any moment.

`status` is "running", "done", "stopped" (it goes on with --resume) or "failed"; `step` the last one known
here, the one of the last save while it runs; `steps` of the whole run; `reason` a line, null where there
is nothing to say. "running" in a folder that nobody holds: that run was killed.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Literal

from mlxone.core.errors import MlxoneError, StorageError
from mlxone.training.folder import replacing

Status = Literal["running", "done", "stopped", "failed"]
LONGEST = 300  # characters of a reason


class Standing:
    def __init__(self, path: Path, steps: int) -> None:
        self._path, self._steps = path, steps
        self._is_over = False

    def running(self, step: int) -> None:
        self._write("running", step, None)

    def over(self, step: int, reason: Literal["done", "asked"]) -> None:
        self._is_over = True
        self._write(*(("done", step, None) if reason == "done" else ("stopped", step, "asked")))

    def broken(self, step: int, error: BaseException) -> None:
        """What was wrong first is what is told, so a disk that is full now is not."""
        if self._is_over:
            return
        with contextlib.suppress(StorageError):
            if isinstance(error, KeyboardInterrupt):
                self._write("stopped", step, "interrupted")
            else:
                self._write("failed", step, _line(error))

    def _write(self, status: Status, step: int, reason: str | None) -> None:
        words = {"status": status, "step": step, "steps": self._steps, "reason": reason}
        with replacing(self._path) as place:
            place.write_text(json.dumps(words) + "\n", encoding="utf-8")


def _line(error: BaseException) -> str:
    said = error.message if isinstance(error, MlxoneError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:LONGEST]
