"""Which library multiplies: asked of processes that were prepared in different ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxone.backend import blas, cpu

ROOT = Path(__file__).parents[2]
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX brings the system's own")


def told(**environ: str) -> Any:
    code = """if True:
        import json
        from mlxone.backend import blas, cpu
        print(json.dumps([blas.facts(), str(cpu.blas())]))
    """
    child = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(child.stdout)


@ON_LINUX
def test_the_linker_says_what_was_brought_in():
    found, brought = told()
    if found is None:
        pytest.skip("MLX computes on a GPU here")
    assert os.path.samefile(found["path"], brought)
    assert found["name"].startswith("OpenBLAS ")
    assert found["threads"] >= 1


@ON_LINUX
def test_the_threads_are_those_that_are_used():
    found, _ = told(OPENBLAS_NUM_THREADS="1")
    assert found is None or found["threads"] == 1


@ON_LINUX
def test_without_one_it_is_mlxs_own():
    found, brought = told(MLXONE_CPU="native")
    assert found in (None, {"name": "MLX's own"})
    assert brought == "None"


def test_a_blas_of_another_make_goes_by_its_file(monkeypatch: pytest.MonkeyPatch):
    class Process:
        def cblas_sgemm(self) -> None: ...

        def dladdr(self, function: Any, symbol: Any) -> int:
            symbol._obj.file = b"/usr/lib/libmkl_rt.so.2"
            return 1

    assert blas.of_process(Process()) == {"name": "libmkl_rt.so.2", "path": "/usr/lib/libmkl_rt.so.2"}


def test_a_gpu_needs_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlxone.backend.arrays.on_cpu", lambda: False)
    assert blas.facts() is None


def test_the_way_to_mlx_is_for_who_asks(monkeypatch: pytest.MonkeyPatch):
    assert "pip install" in cpu.way_to_mlx()
    monkeypatch.setattr(cpu, "is_packed", lambda: True)
    assert "pip" not in cpu.way_to_mlx() and "mlxone doctor" in cpu.way_to_mlx()
