"""A long computation in stretches, none of which takes memory while another still has its own."""

from __future__ import annotations

from collections.abc import Sequence

from mlxone.backend.arrays import mx


class Stretches:
    """Lets the next stretch be built while the device is at one, and submits it when that is done."""

    def __init__(self) -> None:
        self._running: Sequence[mx.array] = ()

    def submit(self, arrays: Sequence[mx.array]) -> None:
        mx.eval(list(self._running))
        mx.async_eval(list(arrays))
        self._running = arrays
