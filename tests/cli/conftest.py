"""A scripted model behind the real command line. No file of weights, no MLX."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxone.cli.main import main
from mlxone.hub import registry, scan
from mlxone.hub.sources import Source
from tests.cli.stage import Stage


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    for name, module in stage.modules().items():
        package, _, short = name.rpartition(".")
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(importlib.import_module(package), short, module, raising=False)
    return stage


@pytest.fixture
def mlxone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*args: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(args)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sources whose folders were walked, once for each time."""
    walked: list[Path] = []

    def walk(source: Source, *args: Any, **options: Any) -> Iterator[Any]:
        walked.append(source.folder)
        return scan.walk(source, *args, **options)

    monkeypatch.setattr(registry, "walk", walk)
    return walked
