"""Two builds from one commit are the same, wherever they were made.

But for signed ones: a signature holds its time. `SIGNED=true` says that what is in dist/ is signed; the
release workflow sets it.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.binary.empty_root import tool
from tests.binary.shipped import ROOT, Shipped

ORIGIN = "_internal/mlxone/build.json"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Path]:
    """The sources as they are here, checkout included, and of what was built the starter alone."""
    with tempfile.TemporaryDirectory(prefix="mlxone-second-build-") as folder:
        place = Path(folder) / "another place"
        listed = [
            tool("git"),
            "-C",
            str(ROOT),
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in {*names, *checkout()} - {""}:
            if (ROOT / name).is_file():
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, place / name)
        shutil.copytree(ROOT / "build" / "starter", place / "build" / "starter")
        yield place


def checkout() -> list[str]:
    files = [path for path in (ROOT / ".git").rglob("*") if path.is_file()]
    return [str(path.relative_to(ROOT)) for path in files or [ROOT / ".git"]]


@pytest.mark.skipif(os.environ.get("SIGNED") == "true", reason="dist/ is signed: signatures hold their times")
def test_a_second_build_in_another_folder_has_the_same_payload(full: Shipped, elsewhere: Path):
    home = pwd.getpwuid(os.getuid()).pw_dir  # where pip finds its settings: the test's own home has none
    done = subprocess.run(
        [sys.executable, "-B", "build.py", "binary", "--level", "1"],
        cwd=elsewhere, env=os.environ | {"HOME": home}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    here, there = full.manifest, json.loads((elsewhere / "build" / "manifest-full.json").read_bytes())
    # Whether something that is not packed was changed since, a test say, is told inside. That may differ.
    told_here, told_there = here["files"].pop(ORIGIN), there["files"].pop(ORIGIN)
    assert differences(here["files"], there["files"]) == []
    assert here == there
    if origin(full.tree) == origin(elsewhere / "build" / "tree-full"):
        assert told_here == told_there


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def origin(tree: Path) -> dict[str, Any]:
    return json.loads((tree / ORIGIN).read_bytes())
