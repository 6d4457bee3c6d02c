"""MLX and what it computes on. Asked of a process of its own, which may fail in any way."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxone.backend import cpu
from mlxone.core.amounts import in_words
from mlxone.fitting import host
from mlxone.service.checkup.findings import Finding, fail, ok, warn

SECONDS = 60.0  # a GPU's first start can take half of it
LITTLE_MEMORY = 10**9
WITH_CUDA = "pip install 'mlxone[cuda]'"
_LINE = re.compile(r"mlxone: (?P<message>.*?)(?: \((?P<hint>[^()]*)\))?")


@dataclass(frozen=True, slots=True)
class Told:
    """What `mlxone device` printed, or why there is none of it."""

    facts: Mapping[str, Any] | None = None
    trouble: str = ""
    hint: str = ""

    @property
    def kind(self) -> str | None:
        return str(self.facts["kind"]) if self.facts else None


def ask(command: Sequence[str] = (), seconds: float = SECONDS) -> Told:
    """As `fit` asks, but what goes wrong is the answer here."""
    try:
        done = host.finish(command or host.device_command(), seconds)
    except OSError as error:
        return Told(trouble=f"the process that loads it cannot be started: {error}")
    except subprocess.TimeoutExpired:
        return Told(trouble=f"it was not loaded within {seconds:g} seconds")
    return read(done.returncode, done.stdout, done.stderr)


def read(code: int, said: str, complained: str) -> Told:
    facts = host.facts_in(said) if code == 0 else None
    if facts:
        return Told(facts)
    if code < 0:
        return Told(trouble=f"the process that loaded it was ended by {_signal_name(-code)}")
    last = (complained.strip().splitlines() or [f"the process that loads it ended with {code}"])[-1]
    found = _LINE.fullmatch(last)
    return Told(trouble=found["message"], hint=found["hint"] or "") if found else Told(trouble=last)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def mlx(told: Told, *, is_packed: bool) -> Finding:
    if told.facts is None:
        general = cpu.way_to_mlx()
        fix = told.hint or general
        if is_packed and fix == general:  # which is to ask the doctor
            fix = "if its own files are whole, this build does not go with this system: pip install mlxone"
        return fail("mlx", told.trouble, fix)
    kind = {"apple": "Apple GPU", "cuda": "NVIDIA GPU", "cpu": "CPU"}.get(str(told.kind), told.kind)
    name = told.facts.get("name")
    size = told.facts.get("memory_bytes")
    memory = f" with {in_words(size)}" if isinstance(size, int) and told.kind != "cpu" else ""
    on = f"the {kind}{f' ({name})' if name else ''}{memory}"
    return ok("mlx", f"MLX {told.facts.get('mlx', '?')} computes on {on}", told.facts)


def blas(told: Told, mode: str, *, is_packed: bool) -> Finding | None:
    """Of Linux's CPU; MLX brings its own everywhere else."""
    found = (told.facts or {}).get("blas")
    if not isinstance(found, Mapping):
        return None
    threads = found.get("threads")
    words = f"{found.get('name')}{f', {threads} threads' if threads else ''}"
    if "path" in found:
        return ok("blas", words, found)
    if mode == "native":
        return ok("blas", f"{words}: MLXONE_CPU=native asks for it", found)
    fix = "pip install 'mlxone[cpu]', or name an OpenBLAS with MLXONE_BLAS"
    if is_packed:
        fix = "name an OpenBLAS of this system with MLXONE_BLAS"
    return warn("blas", f"{words}, many times slower than OpenBLAS", fix, found)


def card(told: Told, *, has_driver: bool, is_packed: bool) -> Finding | None:
    """On Linux: a card that nobody computes on."""
    if told.kind != "cpu" or not has_driver:
        return None
    inside = ": this file has no GPU libraries inside" if is_packed else ""
    return warn("gpu", f"there is an NVIDIA driver here, and MLX computes on the CPU{inside}", WITH_CUDA)


def memory(total: int, limit: int, free: int) -> Finding:
    """`limit` is what a container may use of the total."""
    of = f"{in_words(limit)} that this container may use" if limit < total else in_words(total)
    message = f"{in_words(free)} free of {of}"
    sizes = {"total_bytes": total, "limit_bytes": limit, "free_bytes": free}
    if free < LITTLE_MEMORY:
        return warn("memory", message, "end other programs, or use a small model", sizes)
    return ok("memory", message, sizes)
