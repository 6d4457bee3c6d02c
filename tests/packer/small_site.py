"""A small site-packages as pip would leave it, for the zipapp's tests."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

PROGRAM = """
import json, os, sys
def main():
    import beside
    print(json.dumps({
        "args": sys.argv[1:], "path": sys.path, "beside": beside.WHERE,
        **{name: os.environ.get(name) for name in ("MLXONE_EXECUTABLE", "SHIV_ROOT")},
    }))
    return len(sys.argv) - 1
"""
COMMIT = {"commit": "0" * 40, "dirty": False}


def package(site: Path, name: str, files: dict[str, str], *requires: str, tag: str = "py3-none-any") -> None:
    """As pip leaves it: the files, and a dist-info whose RECORD lists them."""
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    own = {
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n",
        f"{info}/INSTALLER": "pip\n",
        f"{info}/direct_url.json": json.dumps({"url": f"file://{site}"}),
    }
    for path, text in {**files, **own}.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    lines = [_recorded(site, path) for path in {**files, **own}]
    (site / info / "RECORD").write_text("".join(lines) + f"{info}/RECORD,,\n")


def _recorded(site: Path, path: str) -> str:
    content = (site / path).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(content)}\n"


def make_site(folder: Path) -> Path:
    """A program of three lines that stands in for mlxone, what it requires, and what it does not."""
    ours = {
        "mlxone/__init__.py": "",
        "mlxone/cli/__init__.py": "",
        "mlxone/cli/main.py": PROGRAM,
        "mlxone/__pycache__/x.cpython-311.pyc": "old",
        "../bin/mlxone": "a script",
    }
    package(
        folder, "mlxone", ours, "beside[more]>=1", 'mlx-cpu; extra == "cpu"', 'other; python_version < "3"'
    )
    package(
        folder, "beside", {"beside.py": "WHERE = __file__", "beside.pyi": ""}, 'deep.one; extra == "more"'
    )
    package(folder, "deep-one", {"deep/one.py": "", "deep/data.bin": "?" * 999}, "cmeel", "mlxone")
    package(
        folder, "mlx-cpu", {"mlx/lib/a.so": "", "mlx/include/a.h": ""}, tag="py3-none-manylinux_2_28_x86_64"
    )
    package(folder, "cmeel", {"cmeel.pth": "import cmeel"})
    package(folder, "pip", {"pip/__init__.py": ""})
    return folder
