"""The zipapp in dist/ as its users meet it: a Python of their own, an empty home, no network.

`make test-binary` builds it first. The interpreter is the one under the virtual environment, which has
nothing of mlxone; where the system lets us, each start has no network either.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from packer import zipapp_main
from tests.e2e.serving import until

BUILT = sorted(Path(__file__).parents[2].glob("dist/mlxone-*.pyz"))
PYTHON = Path(getattr(sys, "_base_executable", sys.executable))
PATIENCE = 300.0


@pytest.fixture(autouse=True, scope="module")
def _is_built() -> None:
    if not BUILT:
        pytest.fail("there is no zipapp in dist/: run `make dist` first", pytrace=False)


@cache
def no_network() -> tuple[str, ...]:
    """A network of its own with nothing in it, where users may make one."""
    words = ("unshare", "--user", "--map-root-user", "--net")
    try:
        return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else ()
    except OSError:
        return ()


def started(*args: str, **options: Any) -> subprocess.Popen[str]:
    command = [*no_network(), str(PYTHON), str(BUILT[0]), *args]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=pipe, text=True, **options)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def runtimes() -> list[Path]:
    folder = Path(os.environ["MLXONE_HOME"], "runtime")
    return [path for path in folder.iterdir() if path.name != ".lock"] if folder.is_dir() else []


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place in which it has started before."""
    place = tmp_path_factory.mktemp("unpacked") / "runtime"
    code, _, err = ended(started("--version", env={**os.environ, "SHIV_ROOT": str(place)}))
    assert (code, err) == (0, "")
    return place


@pytest.fixture
def warm(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIV_ROOT", str(unpacked))


def test_it_fits_the_python_it_is_named_after() -> None:
    here = zipapp_main.here()
    assert BUILT[0].name.startswith(f"mlxone-cp{here['python'].replace('.', '')}-")
    assert BUILT[0].name.endswith(f"_{here['machine']}.pyz")
    with BUILT[0].open("rb") as file:
        assert file.readline() == f"#!/usr/bin/env python{here['python']}\n".encode()


@pytest.mark.usefixtures("warm")
def test_it_knows_itself() -> None:
    code, out, err = ended(started("--version", "--json"))
    assert (code, err) == (0, "")
    about = json.loads(out)
    assert about["kind"] == "zipapp"
    assert about["executable"] == str(BUILT[0])


@pytest.mark.usefixtures("warm")
def test_the_starter_answers() -> None:
    words = ("run", "--temperature", "0", "--max-tokens", "16", "Name the capital of France.")
    code, out, _ = ended(started(*words))
    assert code == 0
    assert "Paris" in out


@pytest.mark.usefixtures("warm")
def test_verbs_that_load_nothing() -> None:
    code, out, err = ended(started("ls"))
    assert (code, err) == (0, "")
    assert "SmolLM2-135M" in out
    code, out, err = ended(started("ls", "--no-such-flag"))
    assert (code, out, err.count("\n")) == (2, "", 1)


ASK = """
import os
del os.environ["SHIV_INTERPRETER"]
from mlxone.fitting.host import Host, device_facts
print(device_facts(Host()))
"""


def test_it_starts_itself_again_to_ask_for_the_device(warm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIV_INTERPRETER", "1")  # shiv's way to ask a question inside
    code, out, err = ended(started("-c", ASK))
    assert (code, err) == (0, "")
    assert "'kind': " in out


def test_first_starts_at_once() -> None:
    ends = [ended(process) for process in [started("--version") for _ in range(2)]]
    assert {(code, err) for code, _, err in ends} == {(0, "")}
    assert len(runtimes()) == 1


def test_killed_while_it_unpacks_the_next_start_works() -> None:
    process = started("--version", process_group=0)
    until(lambda: _files(runtimes()) or process.poll() is not None, "unpacking", PATIENCE)
    os.killpg(process.pid, signal.SIGKILL)
    ended(process)
    code, out, err = ended(started("--version"))
    assert (code, err) == (0, "")
    assert out.startswith("mlxone ")
    [runtime] = runtimes()
    assert not runtime.name.startswith(".")


def _files(folders: list[Path]) -> Iterator[Path] | None:
    inside = next((path for folder in folders for path in folder.rglob("*.py")), None)
    return iter([inside]) if inside else None
