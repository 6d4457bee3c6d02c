"""Which library multiplies matrices on the CPU, asked of this process itself. Loads MLX.

What `cpu.prepare` brought in is only believed to answer MLX's calls; here the linker is asked.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any


class _Symbol(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def facts() -> dict[str, Any] | None:
    """`name`, and of an OpenBLAS `threads` and `path`; None where MLX does not compute on Linux's CPU."""
    from mlxone.backend.arrays import on_cpu

    if sys.platform != "linux" or not on_cpu():
        return None
    return of_process(ctypes.CDLL(None))


def of_process(process: Any) -> dict[str, Any]:
    """Of what is in the process's global scope, where MLX's calls are looked up first."""
    path = _home_of(process, "cblas_sgemm")
    if path is None:
        return {"name": "MLX's own"}
    found: dict[str, Any] = {"name": path.rpartition("/")[2], "path": path}
    if hasattr(process, "openblas_get_config"):
        process.openblas_get_config.restype = ctypes.c_char_p
        said = (process.openblas_get_config() or b"").decode(errors="replace").split()
        found["name"] = " ".join(said[:2])  # "OpenBLAS 0.3.31"; build options follow
        found["threads"] = process.openblas_get_num_threads()
    return found


def _home_of(process: Any, name: str) -> str | None:
    """The file that answers to a name; None if none does."""
    if not hasattr(process, name) or not hasattr(process, "dladdr"):
        return None
    symbol = _Symbol()
    known = process.dladdr(getattr(process, name), ctypes.byref(symbol))
    return symbol.file.decode(errors="replace") if known and symbol.file else None
