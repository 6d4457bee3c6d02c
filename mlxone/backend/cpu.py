"""The Linux CPU: which BLAS multiplies, and which numbers the weights are kept in.

MLX's CPU wheel links reference BLAS, about 75 times slower than OpenBLAS. A library loaded
with global symbols *before* MLX answers MLX's calls instead, so `prepare` must run first.
`MLXONE_CPU` chooses: `auto` (default), `native` (MLX's own BLAS, dtypes and packed weights:
the mode parity is measured in), `wide` and `packed` (force one branch of `weight_form`).
This file imports no MLX: `fit` asks it the same questions without loading anything.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mlxone.core.about import is_packed
from mlxone.core.errors import UsageError

Mode = Literal["auto", "native", "wide", "packed"]
WeightForm = Literal["stored", "wide", "packed"]

MODES: tuple[Mode, ...] = ("auto", "native", "wide", "packed")
# Widened weights may take this share of the memory that is free: the rest is for the
# packed originals while they are read, the layer states and everything else on the machine.
WIDE_SHARE = 0.5

MEMINFO, GROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# Control groups of version 2, then 1: limit, use, and where the file cache within the use stands.
MEMORY_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)

_blas: Path | None = None


def mode() -> Mode:
    value = os.environ.get("MLXONE_CPU", "").lower() or "auto"
    for known in MODES:
        if value == known:
            return known
    raise UsageError(f"MLXONE_CPU is {value!r}", hint=f"it may be {', '.join(MODES)}")


def blas() -> Path | None:
    """The BLAS brought in by `prepare`, if any."""
    return _blas


def way_to_mlx() -> str:
    """What to do where MLX cannot be loaded."""
    if is_packed():
        return "`mlxone doctor` looks whether this program's own files are whole"
    return "on Linux install its backend: pip install 'mlxone[cpu]' or 'mlxone[cuda]'"


def weight_form(wide_bytes: int, available: int, *, has_blas: bool, chosen: Mode = "auto") -> WeightForm:
    """How weights are kept on the CPU.

    stored: as in the file. Everything under `native`, and `auto` where no fast BLAS is at hand.
    wide:   float32, dequantized, so that every matrix product is one BLAS call.
    packed: quantized weights stay packed, everything else is float32. The choice when wide
            weights would not fit in WIDE_SHARE of the available memory.
    """
    if chosen in ("wide", "packed"):
        return chosen
    if chosen == "native" or not has_blas:
        return "stored"
    return "wide" if wide_bytes <= available * WIDE_SHARE else "packed"


def blas_at_hand() -> bool:
    """Whether `prepare` would most likely find a BLAS; looks at names and loads nothing."""
    if _blas is not None:
        return True
    if sys.platform != "linux" or mode() == "native" or _mlx_cpu_libraries() is None:
        return False
    named = os.environ.get("MLXONE_BLAS")
    return any(library.exists() for library in ([Path(named)] if named else _openblas_candidates()))


def prepare() -> None:
    """Brings a fast BLAS into the process; call before MLX is imported. Harmless anywhere else."""
    global _blas
    if _blas is not None or sys.platform != "linux" or mode() == "native":
        return
    folder = _mlx_cpu_libraries()
    if folder is None:  # a CUDA build: its CPU half is not worth the time
        return
    if "mlx.core" in sys.modules:
        warnings.warn("mlx was imported before mlxone, so it keeps its own slow BLAS", stacklevel=3)
        return
    named = os.environ.get("MLXONE_BLAS")
    for library in [Path(named)] if named else _openblas_candidates():
        if _load_openblas(library, folder):
            _blas = library
            _keep_freed_memory()
            return
    if named:
        raise UsageError(
            f"MLXONE_BLAS={named} cannot be loaded, or has no cblas_sgemm",
            hint="correct or unset MLXONE_BLAS",
        )


def _keep_freed_memory() -> None:
    """Lets freed arrays be used again instead of going back to the system.

    MLX allocates each result anew on the CPU. By default the C library maps and unmaps anything
    large, and the page faults of that cost more than the arithmetic: widening the starter's
    weights takes 0.5 s with these settings and 1.0 s without.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 256 * 2**20)
    mallopt(top_pad, 16 * 2**20)


def available_memory() -> int:
    """Bytes this process may still take: the machine's, or its container's if that is less."""
    return min([_meminfo_available(), *_rooms_in_groups()])


def _rooms_in_groups() -> Iterator[int]:
    """What each control group leaves; the file cache counted in it is given back on demand."""
    for limit, used, stat, cache in MEMORY_GROUPS:
        most, taken = _number(GROUPS / limit), _number(GROUPS / used)
        if most is not None and taken is not None:
            yield max(0, most - max(0, taken - (_number(GROUPS / stat, cache) or 0)))


def _meminfo_available() -> int:
    kilobytes = _number(MEMINFO, "MemAvailable:")
    if kilobytes is not None:
        return kilobytes * 1024
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _number(file: Path, key: str = "") -> int | None:
    """The number behind a key at the start of a line; without a key, the file's first word."""
    try:
        lines = (line.split() for line in file.read_text().splitlines())
        if key:
            return next((int(words[1]) for words in lines if words[0] == key), None)
        return int(next(lines)[0])
    except (OSError, ValueError, IndexError, StopIteration):
        return None  # no such control group, or the word "max"


def _mlx_cpu_libraries() -> Path | None:
    return next((d for p in _site_folders() if (d := p / "mlx_cpu.libs").is_dir()), None)


def _site_folders() -> Iterator[Path]:
    return (Path(p) for p in sys.path if p)


def _openblas_candidates() -> Iterator[Path]:
    for folder in _site_folders():
        yield from sorted((folder / "cmeel.prefix" / "lib").glob("libopenblas.so"))
    for pattern in ("*-linux-gnu/libopenblas.so.0", "libopenblas.so.0"):
        yield from sorted(Path("/usr/lib").glob(pattern))


def _load_openblas(library: Path, mlx_libraries: Path) -> bool:
    if not library.exists():
        return False
    try:
        handle = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        try:
            _load_gfortran(mlx_libraries)
            handle = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            return False
    _limit_threads(handle)
    return hasattr(handle, "cblas_sgemm")


def _load_gfortran(mlx_libraries: Path) -> None:
    """OpenBLAS asks for libgfortran.so.5; MLX's wheel carries it under a name of its own.

    A copy in memory under the public name brings the two together: the name is replaced by
    a shorter one at the same place in the file, and nothing on disk is touched.
    """
    public = b"libgfortran.so.5"
    for library in mlx_libraries.glob("libquadmath-*"):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    for library in mlx_libraries.glob("libgfortran-*"):
        private = library.name.encode() + b"\0"
        if len(private) <= len(public):
            continue
        content = library.read_bytes().replace(private, public.ljust(len(private), b"\0"))
        descriptor = os.memfd_create(public.decode())
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(content)
            copy.flush()
            ctypes.CDLL(f"/proc/self/fd/{descriptor}", mode=ctypes.RTLD_GLOBAL)


def _limit_threads(handle: ctypes.CDLL) -> None:
    """OpenBLAS counts the machine's cores; a container may be allowed fewer."""
    if "OPENBLAS_NUM_THREADS" in os.environ or not hasattr(handle, "openblas_set_num_threads"):
        return
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (GROUPS / "cpu.max").read_text().split()
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    handle.openblas_set_num_threads(cores)
