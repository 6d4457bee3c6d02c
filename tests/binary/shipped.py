"""What `make dist` left: the files for users, and what went into them. They are started with nothing set."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlxone
from tests.binary.empty_root import PATIENCE, Said

ROOT = Path(__file__).parents[2]
KINDS = {"full": ROOT / "dist" / "mlxone", "slim": ROOT / "dist" / "mlxone-slim"}


@dataclass(frozen=True, slots=True)
class Shipped:
    kind: str

    @property
    def file(self) -> Path:
        return KINDS[self.kind]

    @property
    def manifest_file(self) -> Path:
        return ROOT / "build" / f"manifest-{self.kind}.json"

    @property
    def tree(self) -> Path:
        return ROOT / "build" / f"tree-{self.kind}"

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads(self.manifest_file.read_bytes())

    @property
    def runtime_name(self) -> str:
        digest = hashlib.sha256(self.manifest_file.read_bytes()).hexdigest()
        return f"{mlxone.__version__}-{digest[:16]}"

    @property
    def version_line(self) -> str:
        return f"mlxone {mlxone.__version__}\n"


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody with a home folder and nothing else set."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        return {"HOME": str(self.home), "TMPDIR": str(self.home / "tmp"), "PATH": os.defpath}

    @property
    def runtimes(self) -> Path:
        return self.home / ".cache" / "mlxone" / "runtime"

    def start(self, file: Path, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(file), *args], env=self.env | env, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip

    def run(self, file: Path, *args: str, **env: str) -> Said:
        return ended(self.start(file, *args, **env))


def ended(child: subprocess.Popen[str]) -> Said:
    try:
        out, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    return Said(child.returncode, out, err)


def folders(runtimes: Path) -> list[str]:
    """What lies beside the runtime, whole ones and leftovers alike; its lock is no folder."""
    return sorted(entry.name for entry in runtimes.iterdir() if entry.is_dir())
