"""The machine a model shall fit: what it has, what a model may use, what is free, how fast it is.

Imports no MLX. What only MLX knows is asked of a process of its own, once, and remembered in the store.
Apple's half has never run on a Mac: it is tested with canned answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mlxone import __version__
from mlxone.backend import cpu
from mlxone.fitting import chips, host
from mlxone.fitting.chips import GIB, CardProperties, Chip
from mlxone.fitting.host import Host
from mlxone.fitting.store import Store

# The share of RAM a model may use where nobody says: the rest is the system's and everybody else's.
RAM_SHARE = 0.75
# What a process needs on a card beside MLX's arrays: the driver's context, libraries and kernels.
CARD_RESERVE = 768 * 2**20
# Facts are asked again after a week (a new system may recommend more), after a failure in ten minutes.
FACTS_SECONDS, FAILURE_SECONDS = 7 * 86_400.0, 600.0

Kind = Literal["apple", "cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class Machine:
    kind: Kind
    name: str
    chip: Chip | None
    memory_bytes: int  # all there is: of the machine, its container, or the card
    usable_bytes: int  # what a model may use at all
    free_now_bytes: int  # what it may use beside everything that runs now; at most usable_bytes
    bandwidth: float | None = None  # bytes/s; None: speed cannot be predicted
    flops: float | None = None  # half-precision matrix products, per second
    note: str = ""  # what whoever reads these figures should know

    @property
    def key(self) -> str:
        """Tells machines apart in the store, without a host's name."""
        cores = self.chip.gpu_cores if self.chip else 0
        return f"{self.kind} {self.name} {cores} {self.memory_bytes}"


def this_machine(store: Store, asked: Host | None = None) -> Machine:
    asked = asked or Host()
    machine = _mac(store, asked) if asked.platform == "darwin" else _linux(store, asked)
    return _with_measured_speed(store, machine)


def as_sold(chip: Chip, memory_gb: int) -> Machine:
    """A Mac that is not here: nothing else runs on it, and Apple's recommendation is not known."""
    memory = memory_gb * GIB
    usable = int(memory * RAM_SHARE)
    return Machine("apple", f"Apple {chip.label}", chip, memory, usable, usable, chip.bandwidth, chip.flops)


def remember_speed(store: Store, machine: Machine, bandwidth: float, flops: float | None) -> None:
    """Notes what was measured on a machine whose chip is in no table."""
    store.put(f"speed {machine.key}", {"bandwidth": bandwidth, "flops": flops})


def _with_measured_speed(store: Store, machine: Machine) -> Machine:
    measured = store.get(f"speed {machine.key}") if machine.chip is None else None
    if not isinstance(measured, Mapping):
        return machine
    return replace(machine, bandwidth=_positive(measured, "bandwidth"), flops=_positive(measured, "flops"))


def weight_rule(machine: Machine) -> Callable[[int], cpu.WeightForm]:
    """How this machine would hold weights of so many bytes in float32: as loading decides it.

    A rule, since it is asked for thousands of models and the system only once.
    """
    if machine.kind != "cpu" or sys.platform != "linux":
        return lambda _: "stored"
    available, has_blas, chosen = cpu.available_memory(), cpu.blas_at_hand(), cpu.mode()
    return lambda wide_bytes: cpu.weight_form(wide_bytes, available, has_blas=has_blas, chosen=chosen)


def _mac(store: Store, asked: Host) -> Machine:
    brand = host.sysctl(asked, "machdep.cpu.brand_string") or "Apple silicon"
    memory = host.sysctl_number(asked, "hw.memsize") or host.total_memory()
    facts = _remembered_facts(store, asked, f"{host.sysctl(asked, 'hw.model')} {memory}")
    chip = chips.apple(brand, host.gpu_cores(asked), memory // GIB)
    # A limit set by the user is what Metal goes by; 0, the default, leaves it to the system.
    wired = (host.sysctl_number(asked, "iogpu.wired_limit_mb") or 0) << 20
    recommended = wired or _positive(facts, "recommended_bytes") or memory * RAM_SHARE
    usable = min(memory, int(recommended))
    available = host.mac_available(asked)
    free = usable if available is None else min(usable, available)
    return _machine("apple", brand, chip, (memory, usable, free))


def _linux(store: Store, asked: Host) -> Machine:
    silent = ""
    if host.has_nvidia_driver():
        facts = _remembered_facts(store, asked, f"{host.total_memory()} {_visible_cards()}")
        memory = int(_positive(facts, "memory_bytes") or 0)
        if facts.get("kind") == "cuda" and memory:
            return _with_card(asked, facts, memory)
        if not facts:
            silent = "the NVIDIA driver is here, but MLX says nothing of a card: these are the CPU's figures"
    memory = host.total_memory()
    usable = int(memory * RAM_SHARE)
    free = min(usable, cpu.available_memory())
    return replace(_machine("cpu", host.processor_name(), None, (memory, usable, free)), note=silent)


def _with_card(asked: Host, facts: Mapping[str, Any], memory: int) -> Machine:
    name = str(facts.get("name", "NVIDIA card"))
    chip = chips.card(name, _properties(facts.get("card")))
    card_id = facts.get("card_id")
    free = host.card_free(asked, card_id if isinstance(card_id, str) else None)
    if free is None:  # remembered facts would tell what was free when they were asked
        free = int(_positive(host.device_facts(asked) or {}, "free_bytes") or memory)
    usable = max(0, memory - CARD_RESERVE)
    return _machine("cuda", name, chip, (memory, usable, min(usable, max(0, free - CARD_RESERVE))))


def _machine(kind: Kind, name: str, chip: Chip | None, sizes: tuple[int, int, int]) -> Machine:
    bandwidth, flops = (chip.bandwidth, chip.flops) if chip else (None, None)
    return Machine(kind, name, chip, *sizes, bandwidth, flops)


def _remembered_facts(store: Store, asked: Host, hardware: str) -> dict[str, Any]:
    key = f"device {_builds()} {hardware}"
    known = store.get(key, max_age=FACTS_SECONDS)
    if isinstance(known, dict):
        return known
    if store.get(f"{key} failed", max_age=FAILURE_SECONDS):
        return {}
    facts = host.device_facts(asked)
    if facts is None:
        store.put(f"{key} failed", True)
        return {}
    store.put(key, facts)
    return facts


def _builds() -> str:
    """Our version and those of MLX and its backends, of which another may have been installed since."""
    from importlib import metadata  # a slow import, and only needed where MLX has to be asked

    found = []
    for package in ("mlx", "mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:  # all of them in the one-file binary: ours tells MLX's
            continue
    return ", ".join([f"mlxone {__version__}", *found])


def _visible_cards() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all")


def _properties(said: Any) -> CardProperties | None:
    if not isinstance(said, Mapping):
        return None
    numbers: list[Any] = [said.get(field.name) for field in fields(CardProperties)]
    return CardProperties(*numbers) if all(isinstance(number, int) for number in numbers) else None


def _positive(values: Mapping[str, Any], name: str) -> float | None:
    """A number above zero. The values come out of a file or another process: they may be anything."""
    value = values.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    return value if good else None
