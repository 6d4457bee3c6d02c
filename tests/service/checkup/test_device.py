"""MLX and the device: what a process says, or how it ends, becomes a line with a way out."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.service.checkup import device
from mlxone.service.checkup.device import Told
from tests.fitting.canned import H100_FACTS

CPU = {"kind": "cpu", "mlx": "0.32.4", "name": "AMD EPYC", "blas": {"name": "MLX's own"}}
OPENBLAS = {"name": "OpenBLAS 0.3.31", "threads": 2, "path": "/x/libopenblas.so"}


# The process ---------------------------------------------------------------------------------


def test_this_machines_own():
    told = device.ask()
    assert told.trouble == "" and told.facts is not None
    assert device.mlx(told, is_packed=False).status == "ok"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        (["/nowhere/mlxone", "device"], "cannot be started"),
        (python("import os; os.kill(os.getpid(), 4)"), "ended by SIGILL"),  # a processor that lacks something
        (python("import os; os.kill(os.getpid(), 9)"), "ended by SIGKILL"),
        (python("raise SystemExit(3)"), "ended with 3"),
        (python("print('no json')"), "ended with 0"),
        (python("print('[3]')"), "ended with 0"),
        (python("import sys; print(1, file=sys.stderr); print('at last', file=sys.stderr)"), "at last"),
        (python("1 / 0"), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_process_that_says_nothing_of_use(command: list[str], trouble: str):
    told = device.ask(command)
    assert told.facts is None
    assert trouble in told.trouble
    found = device.mlx(told, is_packed=False)
    assert (found.status, found.message) == ("fail", told.trouble)
    assert "pip install" in found.fix


def test_one_that_never_answers():
    told = device.ask(python("import signal; signal.pause()"), seconds=0.3)
    assert told.trouble == "it was not loaded within 0.3 seconds"


def test_our_own_line_is_taken_apart():
    told = device.read(
        12, "", "some warning\nmlxone: MLX cannot be loaded: libm.so (v2): gone (pip install x)\n"
    )
    assert told == Told(trouble="MLX cannot be loaded: libm.so (v2): gone", hint="pip install x")
    assert device.mlx(told, is_packed=False).fix == "pip install x"
    assert device.read(2, "", "mlxone: just this\n") == Told(trouble="just this")


def test_the_program_without_mlx():
    code = """if True:
        import sys
        sys.modules["mlx.core"] = None
        from mlxone.cli.main import main
        sys.exit(main(["device"]))
    """
    told = device.ask(python(code))
    assert told.trouble.startswith("MLX cannot be loaded: ")
    found = device.mlx(told, is_packed=False)
    assert found.fix == "on Linux install its backend: pip install 'mlxone[cpu]' or 'mlxone[cuda]'"
    assert found.message == told.trouble


def test_a_binary_is_not_told_to_install_a_backend():
    from mlxone.backend import cpu

    for hint in ("", cpu.way_to_mlx()):
        found = device.mlx(Told(trouble="x", hint=hint), is_packed=True)
        assert "mlxone[cpu]" not in found.fix and "doctor" not in found.fix and "this build" in found.fix


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(
    ("variable", "way"), [("MLXONE_CPU", "it may be auto"), ("MLXONE_BLAS", "correct or unset")]
)
@pytest.mark.skipif(sys.platform != "linux", reason="Linux's variables")
def test_the_programs_own_way_out_counts(
    is_packed: bool, variable: str, way: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, "/nope")
    found = device.mlx(device.ask(), is_packed=is_packed)
    assert found.status == "fail" and variable in found.message and found.fix.startswith(way)


@given(st.integers(-70, 255), st.text(), st.text())
def test_whatever_it_prints_there_are_facts_or_trouble(code: int, said: str, complained: str):
    told = device.read(code, said, complained)
    assert (told.facts is None) == bool(told.trouble)
    assert device.mlx(told, is_packed=False).message


def test_facts_come_through():
    told = device.read(0, f"a greeting\n{json.dumps(CPU)}\n", "a warning\n")
    assert told == Told(CPU)
    assert told.kind == "cpu"


# What is said of it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (CPU, "MLX 0.32.4 computes on the CPU (AMD EPYC)"),
        ({"kind": "cpu"}, "MLX ? computes on the CPU"),
        (
            {"kind": "apple", "mlx": "0.32.4", "name": "Apple M3 Max", "memory_bytes": 137_438_953_472},
            "MLX 0.32.4 computes on the Apple GPU (Apple M3 Max) with 137.4 GB",
        ),
        ({"kind": "tpu", "mlx": "9"}, "MLX 9 computes on the tpu"),
    ],
)
def test_where_mlx_computes(facts: dict[str, object], message: str):
    found = device.mlx(Told(facts), is_packed=False)
    assert (found.status, found.message, found.details) == ("ok", message, facts)


def test_a_card():
    assert device.mlx(Told(H100_FACTS), is_packed=False).message.startswith("MLX 0.")
    assert device.card(Told(H100_FACTS), has_driver=True, is_packed=False) is None


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_card_that_nobody_computes_on(is_packed: bool):
    assert device.card(Told(CPU), has_driver=False, is_packed=is_packed) is None
    assert device.card(Told(trouble="x"), has_driver=True, is_packed=is_packed) is None
    found = device.card(Told(CPU), has_driver=True, is_packed=is_packed)
    assert found is not None and found.status == "warn"
    assert found.fix == "pip install 'mlxone[cuda]'"
    assert ("no GPU libraries inside" in found.message) == is_packed


def test_the_blas_that_is_used():
    found = device.blas(Told({**CPU, "blas": OPENBLAS}), "auto", is_packed=False)
    assert found is not None
    assert (found.status, found.message) == ("ok", "OpenBLAS 0.3.31, 2 threads")
    assert found.details == OPENBLAS


@pytest.mark.parametrize(
    ("mode", "is_packed", "status", "fix"),
    [
        ("auto", False, "warn", "pip install 'mlxone[cpu]'"),
        ("auto", True, "warn", "MLXONE_BLAS"),
        ("native", False, "ok", ""),
    ],
)
def test_mlxs_own_blas_is_slow_unless_asked_for(mode: str, is_packed: bool, status: str, fix: str):
    found = device.blas(Told(CPU), mode, is_packed=is_packed)
    assert found is not None and found.status == status
    assert fix in found.fix and ("pip" in found.fix) == ("pip" in fix)


def test_no_blas_no_line():
    assert device.blas(Told({"kind": "apple"}), "auto", is_packed=False) is None
    assert device.blas(Told(trouble="x"), "auto", is_packed=False) is None


@pytest.mark.parametrize(
    ("sizes", "status", "message"),
    [
        ((16 * 10**9, 16 * 10**9, 9 * 10**9), "ok", "9.0 GB free of 16.0 GB"),
        ((16 * 10**9, 4 * 10**9, 3 * 10**9), "ok", "3.0 GB free of 4.0 GB that this container may use"),
        ((16 * 10**9, 16 * 10**9, 10**9 - 1), "warn", "1.0 GB free of 16.0 GB"),
    ],
)
def test_memory(sizes: tuple[int, int, int], status: str, message: str):
    found = device.memory(*sizes)
    assert (found.status, found.message) == (status, message)
    assert found.details == dict(zip(("total_bytes", "limit_bytes", "free_bytes"), sizes, strict=True))


def test_signals_have_names():
    assert "SIGSEGV" in device.read(-signal.SIGSEGV, "", "").trouble
    assert "signal 255" in device.read(-255, "", os.linesep).trouble
