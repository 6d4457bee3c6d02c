"""What the steps of the build share: the one error, where things lie, and how a step is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class BuildError(Exception):
    """The build cannot go on: one line that names the thing, and the way out where there is one."""

    def __init__(self, line: str, hint: str = "") -> None:
        super().__init__(f"{line} ({hint})" if hint else line)


@dataclass(frozen=True)
class Places:
    """The folders of one build, all of them under the root of the sources."""

    root: Path

    @property
    def build(self) -> Path:
        return self.root / "build"

    @property
    def dist(self) -> Path:
        return self.root / "dist"

    @property
    def begun(self) -> Path:
        """As old as the sources of the build that is under way."""
        return self.build / ".begun"

    @property
    def finished(self) -> Path:
        """There once everything was built, and as old as its sources: make's stamp."""
        return self.build / ".dist"

    @property
    def environment(self) -> Path:
        return self.build / "env"

    @property
    def starter(self) -> Path:
        return self.build / "starter"

    def tree(self, kind: str) -> Path:
        return self.build / f"tree-{kind}"

    @property
    def licences(self) -> Path:
        return self.dist / "THIRD-PARTY-LICENSES.txt"


@contextmanager
def step(name: str) -> Iterator[None]:
    """Says what is being done, and when it is done how long it took."""
    print(f"{name} …", flush=True)
    start = time.monotonic()
    yield
    print(f"    {time.monotonic() - start:.1f} s", flush=True)
