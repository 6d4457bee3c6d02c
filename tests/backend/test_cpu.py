"""The Linux CPU's rule: which form weights take, how much memory there is, and whose BLAS multiplies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend import cpu
from mlxone.backend.cpu import Mode, WeightForm, available_memory, weight_form
from mlxone.core.errors import UsageError

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the rule is Linux's")


# Modes and forms -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "mode"),
    [(None, "auto"), ("auto", "auto"), ("native", "native"), ("Wide", "wide"), ("PACKED", "packed")],
)
def test_modes(value: str | None, mode: str, monkeypatch: pytest.MonkeyPatch):
    if value is not None:
        monkeypatch.setenv("MLXONE_CPU", value)
    assert cpu.mode() == mode
    assert get_args(Mode) == cpu.MODES


@pytest.mark.parametrize("value", ["fast", "auto ", "stored"])
def test_a_mode_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_CPU", value)
    with pytest.raises(UsageError) as caught:
        cpu.mode()
    assert caught.value.message == f"MLXONE_CPU is {value!r}"
    assert caught.value.hint == "it may be auto, native, wide, packed"


@pytest.mark.parametrize(
    ("wide", "available", "blas", "chosen", "form"),
    [
        (50, 100, True, "auto", "wide"),
        (51, 100, True, "auto", "packed"),
        (0, 0, True, "auto", "wide"),
        (1, 0, True, "auto", "packed"),
        (1, 10**12, False, "auto", "stored"),
        (1, 10**12, True, "native", "stored"),
        (10**12, 1, True, "wide", "wide"),
        (1, 10**12, True, "packed", "packed"),
        (1, 10**12, False, "wide", "wide"),  # slow, but what was asked for
        (1, 10**12, False, "packed", "packed"),
    ],
)
def test_the_table_of_forms(wide: int, available: int, blas: bool, chosen: Mode, form: WeightForm):
    assert weight_form(wide, available, has_blas=blas, chosen=chosen) == form


sizes = st.integers(0, 2**50)


@given(wide=sizes, available=sizes, more=sizes, chosen=st.sampled_from(cpu.MODES), blas=st.booleans())
def test_more_memory_never_narrows(wide: int, available: int, more: int, chosen: Mode, blas: bool):
    order = ("stored", "packed", "wide")
    less, plenty = (
        order.index(weight_form(wide, memory, has_blas=blas, chosen=chosen))
        for memory in (available, available + more)
    )
    smaller = order.index(weight_form(wide // 2, available, has_blas=blas, chosen=chosen))
    assert less <= plenty and less <= smaller


# Memory --------------------------------------------------------------------------------------

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available and no control group."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {8 * GIB // 1024} kB\nOther: 1 kB\n")
    monkeypatch.setattr(cpu, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cpu, "GROUPS", tmp_path / "groups")
    (tmp_path / "groups" / "memory").mkdir(parents=True)
    return tmp_path / "groups"


def limited(machine: Path, version: int, most: Any, used: Any, stat: str = "") -> None:
    names = {2: ("memory.max", "memory.current", "memory.stat")}
    names[1] = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
    for name, value in zip(names[version], (most, used, stat), strict=True):
        (machine / name).write_text(f"{value}\n")


def test_without_a_limit_the_machine_decides(machine: Path):
    assert available_memory() == 8 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_decides_when_it_is_less(machine: Path, version: int):
    limited(machine, version, 3 * GIB, GIB)
    assert available_memory() == 2 * GIB
    limited(machine, version, 99 * GIB, GIB)
    assert available_memory() == 8 * GIB
    limited(machine, version, GIB, 2 * GIB)
    assert available_memory() == 0, "over its limit already"


def test_the_lesser_of_two_limits(machine: Path):
    limited(machine, 2, 3 * GIB, GIB)
    limited(machine, 1, 2 * GIB, GIB)
    assert available_memory() == GIB


@pytest.mark.parametrize(("version", "key"), [(2, "inactive_file"), (1, "total_inactive_file")])
def test_the_file_cache_counts_as_free(machine: Path, version: int, key: str):
    """A container that read a model has it in its cache; the kernel gives that back."""
    limited(machine, version, 4 * GIB, 4 * GIB, f"anon 5\n{key} {3 * GIB}\nactive_file 7")
    assert available_memory() == 3 * GIB
    limited(machine, version, 4 * GIB, GIB, f"{key} {2 * GIB}")
    assert available_memory() == 4 * GIB, "never more than the limit"


@pytest.mark.parametrize(("most", "used"), [("max", 5), ("", 5), (5, ""), ("five", 1), (2**63 - 4096, 5)])
def test_a_limit_that_is_none(machine: Path, most: Any, used: Any):
    for version in (1, 2):
        limited(machine, version, most, used)
    assert available_memory() == 8 * GIB


@pytest.mark.parametrize("text", [None, "", "MemFree: 5 kB\n", "MemAvailable:\n", "MemAvailable: x kB\n"])
def test_where_the_machine_does_not_say(machine: Path, text: str | None):
    if text is None:
        cpu.MEMINFO.unlink()
    else:
        cpu.MEMINFO.write_text(text)
    assert available_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@linux
def test_this_machine():
    assert 2**20 < available_memory() < 2**50


# BLAS ----------------------------------------------------------------------------------------

PRODUCT = """
import json, sys
import numpy as np
from mlxone.backend import cpu
from mlxone.backend.arrays import mx
rng = np.random.default_rng(5)
worst = 0.0
for rows in (1, 7, 64):
    a, b = rng.standard_normal((rows, 300)), rng.standard_normal((300, 129))
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    exact = a32.astype(np.float64) @ b32.astype(np.float64)
    for left, right in ((mx.array(a32), mx.array(b32)), (mx.array(a32), mx.array(b32.T.copy()).T)):
        worst = max(worst, float(np.abs(np.array(left @ right) - exact).max()))
maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
print(json.dumps({"blas": str(cpu.blas()), "worst": worst, "loaded": "/libopenblas" in maps,
                  "cpu": mx.default_device().type == mx.DeviceType.cpu}))
"""


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def product(**environment: str) -> dict[str, Any]:
    done = in_a_process(PRODUCT, **environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@linux
@pytest.mark.skipif(cpu._mlx_cpu_libraries() is None, reason="MLX is no CPU build here")
def test_the_products_of_a_fast_blas(tmp_path: Path):
    """`make` installs an OpenBLAS beside MLX's CPU build: that it is not found is a failure."""
    found = product()
    assert Path(found["blas"]).name.startswith("libopenblas") and found["loaded"]
    assert found["worst"] < 1e-3
    (tmp_path / "mine.so").symlink_to(found["blas"])
    assert product(MLXONE_BLAS=str(tmp_path / "mine.so"))["blas"] == str(tmp_path / "mine.so")
    with pytest.raises(AssertionError, match=r"MLXONE_BLAS=nowhere.so cannot be loaded.*\(correct or unset"):
        product(MLXONE_BLAS="nowhere.so")


def test_native_leaves_mlx_as_it_is():
    found = product(MLXONE_CPU="native")
    assert (found["blas"], found["loaded"]) == ("None", False)
    assert not found["cpu"] or found["worst"] < 1e-3


class Handle:
    """An OpenBLAS that notes how many threads it is given."""

    threads: int | None = None

    def openblas_set_num_threads(self, count: int) -> None:
        self.threads = count


@pytest.mark.parametrize(
    ("quota", "threads"),
    [(None, 16), ("max 100000", 16), ("400000 100000", 4), ("150000 100000", 2), ("1 100000", 1), ("x", 16),
     ("9900000 100000", 16)],
)  # fmt: skip
def test_as_many_threads_as_the_container_may_use(
    machine: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, threads: int
):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    if quota is not None:
        (machine / "cpu.max").write_text(quota + "\n")
    handle: Any = Handle()
    cpu._limit_threads(handle)
    assert handle.threads == threads


def test_threads_the_user_names_are_left_alone(machine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    handle: Any = Handle()
    cpu._limit_threads(handle)
    assert handle.threads is None
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    cpu._limit_threads(object())  # type: ignore[arg-type]  # another BLAS has no such function


@linux
def test_an_unknown_mode_is_our_error_at_the_import():
    code = "from mlxone.core.errors import UsageError\ntry:\n import mlxone.backend.arrays\n"
    done = in_a_process(code + "except UsageError as error:\n print(error)", MLXONE_CPU="quick")
    assert done.stdout == "MLXONE_CPU is 'quick' (it may be auto, native, wide, packed)\n", done.stderr


@linux
def test_prepare_comes_too_late_after_mlx():
    code = "import mlx.core\nfrom mlxone.backend import cpu\ncpu.prepare()\nprint(cpu.blas())"
    assert in_a_process(code).stdout == "None\n"
    assert "mlx" not in in_a_process("import mlxone.backend.cpu, sys\nprint(*sys.modules)").stdout.split()


@linux
@pytest.mark.skipif(cpu._mlx_cpu_libraries() is None, reason="MLX is no CPU build here")
def test_a_library_that_is_no_blas_is_passed_over():
    """libm loads, and has no cblas_sgemm; a text does not load."""
    code = "from mlxone.backend import cpu\nfrom pathlib import Path\nfolder = cpu._mlx_cpu_libraries()\n"
    code += "print([cpu._load_openblas(Path(p), folder) for p in {names!r}])"
    [libm] = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
              if "/libm.so" in line or "/libm-" in line][:1]  # fmt: skip
    done = in_a_process(code.format(names=[libm, __file__, "nowhere"]))
    assert done.stdout == "[False, False, False]\n", done.stderr


def test_a_blas_is_at_hand_exactly_when_one_gets_loaded(monkeypatch: pytest.MonkeyPatch):
    code = (
        "from mlxone.backend import cpu; at_hand = cpu.blas_at_hand(); cpu.prepare(); "
        "print(at_hand, cpu.blas() is not None)"
    )
    for mode in ("auto", "native"):
        monkeypatch.setenv("MLXONE_CPU", mode)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        at_hand, loaded = done.stdout.split()
        assert at_hand == loaded
