"""What the build says at its end: the checksums, how large everything is and what takes the space."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"
# What builds make, with what one that was killed has left half-written. The rest of dist/ is the user's.
BUILT = (
    "mlxone",
    "mlxone-slim",
    "mlxone-*.pyz",
    "THIRD-PARTY-LICENSES.txt",
    ".mlxone*.new",
    "mlxone-*.pyz.new",
)


def built(dist: Path) -> list[Path]:
    """The files (and links) of builds in this folder."""
    found = {path for pattern in BUILT for path in dist.glob(pattern)}
    return sorted(path for path in found if path.is_symlink() or path.is_file())


def write(folder: Path, files: Iterable[Path]) -> Path:
    """SHA256SUMS over these files of the folder, as `sha256sum --check` reads it."""
    lines = [f"{digest(path)}  {path.name}\n" for path in sorted(files)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return folder / SUMS


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sizes(files: Iterable[Path]) -> str:
    return "".join(f"  {path.name:<44}{_mb(path.stat().st_size)}\n" for path in files)


def shares(tree: Path, most: int = 12) -> str:
    """The largest parts of a tree, unpacked: folders and single files directly within it."""
    parts: Counter[str] = Counter()
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            inner = path.relative_to(tree).parts
            parts["/".join(inner[1:2] if inner[0] == "_internal" else inner[:1])] += path.stat().st_size
    total = sum(parts.values())
    largest = parts.most_common(most)
    rest = total - sum(size for _, size in largest)
    rows = [*largest, (f"{len(parts) - len(largest)} more", rest), ("unpacked in all", total)]
    return "".join(f"  {name:<44}{_mb(size)}\n" for name, size in rows)


def _mb(size: int) -> str:
    return f"{size / 1e6:7.1f} MB"
