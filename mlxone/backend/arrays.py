"""The one door to MLX: every other file says `from mlxone.backend.arrays import mx`.

MLX ties lazily built arrays to the stream of the thread that built them. All our work runs on
one stream that any thread may use (`on_stream`), one thread at a time (`lock`), so that a model
loaded here can answer from a worker thread there.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from mlxone.backend import cpu
from mlxone.core.errors import BackendMissing

if TYPE_CHECKING:
    import mlx.core as mx
else:
    cpu.prepare()
    try:
        import mlx.core as mx
    except ImportError as error:
        raise BackendMissing(
            f"MLX cannot be loaded: {error}",
            hint="on Linux install its backend: pip install 'mlxone[cpu]' or 'mlxone[cuda]'",
        ) from error

__all__ = ["limit_memory", "lock", "mx", "on_cpu", "on_stream", "wire_memory"]

lock = threading.RLock()
_stream = mx.new_thread_unsafe_stream(mx.default_device())


def on_stream() -> Any:
    """A context in which arrays are built on the project's stream."""
    return mx.stream(_stream)


def on_cpu() -> bool:
    return mx.default_device() == mx.Device(mx.DeviceType.cpu)


def limit_memory(size: int) -> None:
    """MLX's own guard: beyond it an allocation waits for what is in flight, then fails in Python.

    The second line of defence, behind admission: a device that really runs out ends the process.
    """
    mx.set_memory_limit(size)


def wire_memory() -> None:
    """On Apple silicon keeps weights resident, up to what Metal recommends; elsewhere does nothing.

    Not run in this project's tests: there is no Mac among its machines. `MLXONE_WIRE=0` turns it off.
    """
    if not mx.metal.is_available() or os.environ.get("MLXONE_WIRE") == "0":
        return
    recommended = mx.device_info().get("max_recommended_working_set_size")
    if recommended:
        mx.set_wired_limit(int(recommended))
