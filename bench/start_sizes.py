"""What takes the space in the unpacked program, by the packages its files came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import zstandard

from bench.figures import table

HEAD = ["part", "files", "MB unpacked", "MB packed by itself", "share of the packed"]
LARGEST = 12
LEVEL = 9  # what build.py packs with
INNER = "_internal"

# What lies in several places, or under a name that says little.
PARTS = {
    "mlxone": "Python code, all packages",  # PyInstaller keeps it inside the executable
    "mlx": "MLX",
    "mlx_cpu.libs": "MLX's Fortran and LAPACK",
    "cmeel.prefix": "OpenBLAS",
    "mlxone_starter": "the starter model",
}


def components(tree: Path) -> str:
    """A table of the largest parts; packed sizes are of each part alone, so they add up to a little more."""
    parts: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            parts[_part(path.relative_to(tree))].append(path)
    raw = {part: sum(file.stat().st_size for file in files) for part, files in parts.items()}
    largest = sorted(parts, key=raw.__getitem__, reverse=True)[:LARGEST]
    others = [part for part in parts if part not in largest]
    groups = {part: parts[part] for part in largest}
    groups[f"{len(others)} more"] = [file for part in others for file in parts[part]]
    packed = {part: packed_size(files) for part, files in groups.items()}
    total = sum(packed.values())
    rows = [
        [part, len(files), _mb(_size(files)), _mb(packed[part]), f"{packed[part] / total:.0%}"]
        for part, files in groups.items()
    ]
    every = [file for files in groups.values() for file in files]
    rows.append(["all of it", len(every), _mb(_size(every)), _mb(total), "100%"])
    return table(HEAD, rows)


def packed_size(files: Iterable[Path]) -> int:
    """At the level that the build uses by itself."""
    return len(zstandard.compress(b"".join(file.read_bytes() for file in files), LEVEL))


def _part(path: Path) -> str:
    inner = path.parts[1:] if path.parts[0] == INNER else path.parts
    name = inner[0]
    if name.startswith("libpython"):
        return "Python itself"
    if name.startswith("python3."):
        return "Python's own extensions"
    if len(inner) == 1 and ".so" in name:
        return f"{name.split('.so')[0]} (system library)"
    return PARTS.get(name, name)


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
