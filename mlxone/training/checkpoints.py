"""All that a run needs to go on exactly, in one file: parameters, the optimizer's state, and where it stood.

The order of the data, the learning rate and the dropout follow from the step, so the step is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import lock, mx, on_stream
from mlxone.core.errors import DamagedModel, MlxoneError, UsageError
from mlxone.formats.safetensors import read_header
from mlxone.training.folder import replacing
from mlxone.training.optimizer import Params
from mlxone.training.tensor_file import Slot, read_metadata, write_file

VERSION = 1
ENTRY = "mlxone_run"  # in the file's metadata
PARAMS, OPTIMIZER = "params/", "optimizer/"
SOUND = "sound"  # only sound states are saved, so it is not
_DTYPES = {mx.float32: "F32", mx.uint64: "U64"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    step: int
    params: Params
    optimizer: Params
    recipe: Mapping[str, Any]
    fingerprints: Mapping[str, str]  # of the model, the data and the adapter it started from
    history: Mapping[str, Any] = field(default_factory=dict)  # what reports still to come are made of

    def write(self, path: Path) -> None:
        arrays = {PARAMS + n: a for n, a in self.params.items()}
        arrays |= {OPTIMIZER + n: a for n, a in self.optimizer.items() if n != SOUND}
        entry = {
            "version": VERSION,
            "step": self.step,
            "recipe": dict(self.recipe),
            "fingerprints": dict(self.fingerprints),
            "history": dict(self.history),
        }
        with lock, on_stream():
            mx.eval(list(arrays.values()))
            slots = [Slot(name, _DTYPES[a.dtype], tuple(a.shape)) for name, a in arrays.items()]
            with replacing(path) as place:
                write_file(place, slots, {ENTRY: json.dumps(entry)}, lambda slot: _bytes(arrays[slot.name]))

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        try:
            read_header(path)  # before MLX's native loader sees the file
            entry = json.loads(read_metadata(path)[ENTRY])
            if entry["version"] != VERSION:
                raise UsageError(
                    f"{path} was saved by another version of mlxone", hint="go on with that version"
                )
            with lock, on_stream():
                arrays: Params = mx.load(str(path))  # type: ignore[assignment]
                mx.eval(list(arrays.values()))  # now: the file will be replaced
            return cls(
                int(entry["step"]),
                _under(PARAMS, arrays),
                _under(OPTIMIZER, arrays) | {SOUND: mx.array(True)},
                dict(entry["recipe"]),
                dict(entry["fingerprints"]),
                dict(entry["history"]),
            )
        except UsageError:
            raise
        except (KeyError, ValueError, TypeError, RuntimeError, OSError, MlxoneError) as error:
            raise DamagedModel(
                f"{path} is damaged: no run can go on from it",
                hint="begin anew, with --overwrite or in another folder; the adapter beside it is untouched",
            ) from error

    def hand_over(self) -> tuple[Params, Params]:
        """Parameters and the optimizer's state, which are not held here any longer: whoever goes on from
        them replaces them, and the old ones would take the same memory once more."""
        params, optimizer = dict(self.params), dict(self.optimizer)
        self.params.clear()
        self.optimizer.clear()
        return params, optimizer

    def check_fingerprints(self, now: Mapping[str, str]) -> None:
        """Refuses, by name, what is not what the run was made with."""
        for name, before in self.fingerprints.items():
            if now.get(name) != before:
                raise UsageError(
                    f"the run was made with another {name}",
                    hint=f"give the same {name} to go on, or begin a new run in another --adapter-path",
                    param=name,
                )


def _under(prefix: str, arrays: Params) -> Params:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _bytes(array: mx.array) -> memoryview:
    view = memoryview(array)  # type: ignore[arg-type]
    return view.cast("B") if view.nbytes else memoryview(b"")
