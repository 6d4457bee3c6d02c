"""The one door to MLX: every other file says `from mlxone.backend.arrays import mx`.

MLX ties lazily built arrays to the stream of the thread that built them. All our work runs on
one stream that any thread may use (`on_stream`), one thread at a time (`lock`), so that a model
loaded here can answer from a worker thread there.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mlxone.backend import cpu
from mlxone.core.errors import BackendMissing, OutOfMemory

if TYPE_CHECKING:
    import mlx.core as mx
else:
    cpu.prepare()
    try:
        import mlx.core as mx
    except ImportError as error:
        raise BackendMissing(f"MLX cannot be loaded: {error}", hint=cpu.way_to_mlx()) from error

__all__ = ["check_memory", "lift_limit", "limit_memory", "lock", "mx", "on_cpu", "on_stream", "wire_memory"]

lock = threading.RLock()
_stream = mx.new_thread_unsafe_stream(mx.default_device())


def on_stream() -> Any:
    """A context in which arrays are built on the project's stream."""
    return mx.stream(_stream)


def on_cpu() -> bool:
    return mx.default_device() == mx.Device(mx.DeviceType.cpu)


# What each owner may use of this process's memory, and what all together may at most. An owner that is
# gone has no say any more.
_limits: WeakKeyDictionary[object, tuple[int, int]] = WeakKeyDictionary()
_limits_lock = threading.Lock()
_mlx_limit: int | None = None  # MLX's own, which is never exceeded


def limit_memory(owner: object, size: int, most: int) -> None:
    """The second line of defence, behind admission: a device that really runs out ends the process.

    Owners know nothing of each other and each keeps to its own size, so their sizes add up, to what
    the machine allows at `most`. MLX takes its limit as a guideline: near it, it waits for what is in
    flight and empties its caches. So `check_memory` looks as well.
    """
    with _limits_lock:
        _limits[owner] = (size, most)
        _tell_mlx()


def lift_limit(owner: object) -> None:
    """It uses no memory any more."""
    with _limits_lock:
        if _limits.pop(owner, None) is not None:
            _tell_mlx()


def check_memory() -> None:
    """Between two pieces of work: raises where arrays in use have outgrown the limit."""
    with _limits_lock:
        limit = _limit()
    if limit is not None and mx.get_active_memory() > limit:
        used = mx.get_active_memory() / 1e9
        raise OutOfMemory(
            f"{used:.2f} GB are in use and {limit / 1e9:.2f} GB are allowed",
            hint="use a shorter context; `mlxone fit` says how long it may be",
        )


def _limit() -> int | None:
    limits = list(_limits.values())
    return min(sum(size for size, _ in limits), max(most for _, most in limits)) if limits else None


def _tell_mlx() -> None:
    global _mlx_limit
    limit = _limit()
    if limit is not None:
        before = mx.set_memory_limit(limit)
        _mlx_limit = before if _mlx_limit is None else _mlx_limit
    if _mlx_limit is not None and (limit is None or _mlx_limit < limit):
        mx.set_memory_limit(_mlx_limit)


def wire_memory() -> None:
    """On Apple silicon keeps weights resident, up to what Metal recommends; elsewhere does nothing.

    Not run in this project's tests: there is no Mac among its machines. `MLXONE_WIRE=0` turns it off.
    """
    if not mx.metal.is_available() or os.environ.get("MLXONE_WIRE") == "0":
        return
    recommended = mx.device_info().get("max_recommended_working_set_size")
    if recommended:
        mx.set_wired_limit(int(recommended))
