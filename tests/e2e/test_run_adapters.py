"""`mlxone run --adapter` as the program: the library's text, or one line that says what does not fit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import mlxone
from tests.e2e.serving import PATIENCE, command
from tests.engine import tiny
from tests.service.adapter_folders import write_adapter
from tests.service.rig import write_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    model = write_folder(place / "tiny")
    other = write_folder(place / "other", {**tiny.PLAIN, "hidden_size": 64})
    for seed, id in enumerate("ab"):
        write_adapter(place / id, model, seed=seed + 1)
    write_adapter(place / "wide", other)
    write_adapter(place / "d1", model, kind="dora")
    write_adapter(place / "d2", model, kind="dora", seed=2)
    return place


def run(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    words = [*command(), "run", "--model", str(place / "tiny"), "--prompt", "Hello", "--max-tokens", "6"]
    return subprocess.run(
        [*words, "--temperature", "0", "--quiet", *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )


def told(place: Path, *adapters: str) -> str:
    model = mlxone.load(place / "tiny")
    for id in adapters:
        model.adapters.mount(id, place / id)
    text = "".join(t.text for t in mlxone.generate(model, "Hello", max_tokens=6, adapters=adapters))
    return text if text.endswith("\n") else text + "\n"


def test_the_text_is_the_librarys(place: Path):
    seen = set()
    for ids in ((), ("a",), ("a", "b")):
        done = run(place, *(word for id in ids for word in ("--adapter", str(place / id))))
        assert (done.returncode, done.stderr, done.stdout) == (0, "", told(place, *ids))
        seen.add(done.stdout)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("ids", "code", "says"),
    [
        (("wide",), 14, "does not fit"),
        (("d1", "d2"), 14, "adapters d1 and d2 cannot work together"),
        (("missing",), 3, "is no folder"),
    ],
)
def test_one_line_says_what_is_wrong(place: Path, ids: tuple[str, ...], code: int, says: str):
    done = run(place, *(word for id in ids for word in ("--adapter", str(place / id))))
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr and done.stderr.count("\n") == 1
