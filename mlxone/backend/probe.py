"""What MLX and the driver say of the device, as plain values that go through JSON.

Importing this file imports no MLX; `facts` does. It is called in a process of its own
(`mlxone device`), so that `fit`, which wants the facts, never loads MLX itself.
The Metal half has never run on a Mac; its names are those of MLX's documentation.
"""

from __future__ import annotations

import ctypes
from typing import Any


def facts() -> dict[str, Any]:
    """Always `kind` and `mlx`; the rest where the device says it, sizes in bytes.

    kind                 "apple", "cuda" or "cpu": where MLX computes by default
    mlx                  MLX's version
    name, architecture   as the device calls itself
    memory_bytes         all of its memory; on Apple silicon the machine's
    recommended_bytes    how much of it Metal recommends to use at most
    free_bytes           what is free on the card right now
    card_id              by which `nvidia-smi -i` knows the card
    card                 figures a card's speed can be estimated from
    blas                 the library that multiplies matrices on Linux's CPU
    """
    from mlxone.backend import blas
    from mlxone.backend.arrays import mx, on_cpu

    info = mx.device_info()
    kind = "cpu" if on_cpu() else "apple" if mx.metal.is_available() else "cuda"
    found = {
        "kind": kind,
        "mlx": getattr(mx, "__version__", None),
        "name": info.get("device_name"),
        "architecture": info.get("architecture"),
        "memory_bytes": info.get("memory_size", info.get("total_memory")),
        "recommended_bytes": info.get("max_recommended_working_set_size"),
        "free_bytes": info.get("free_memory"),
        "card_id": info.get("pci_bus_id", info.get("uuid")),
        "card": card_figures() if kind == "cuda" else None,
        "blas": blas.facts(),
    }
    return {name: value for name, value in found.items() if value is not None}


# Names here -> numbers of CUdevice_attribute in cuda.h, which never change.
ATTRIBUTES = {
    "clock_khz": 13,
    "multiprocessors": 16,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "capability_major": 75,
    "capability_minor": 76,
}


def card_figures() -> dict[str, int] | None:
    """Of the first card the driver shows this process, the one MLX takes; None without such a driver.

    MLX does not pass these on, so the driver's own library is asked.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        if cuda.cuInit(0) != 0:
            return None
        found = {name: _attribute(cuda, number) for name, number in ATTRIBUTES.items()}
    except (OSError, AttributeError):
        return None
    return {name: value for name, value in found.items() if value is not None}


def _attribute(cuda: Any, number: int, device: int = 0) -> int | None:
    value = ctypes.c_int()
    done = cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device) == 0
    return value.value if done else None
