"""Machines that are not here: what their commands would answer, and how often they were asked.

The Mac's texts follow the documented output of its commands (there is no Mac among this project's
machines); the card's are what an H100 answered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlxone.fitting.host import Host

ANSWERS = Path(__file__).parent / "answers"
VM_STAT, IOREG = ((ANSWERS / name).read_text() for name in ("vm_stat.txt", "ioreg.txt"))

GIB = 2**30
MAC_MEMORY = 128 * GIB
RECOMMENDED = 115_448_725_504

MAC = {
    "machdep.cpu.brand_string": "Apple M3 Max\n",
    "hw.memsize": f"{MAC_MEMORY}\n",
    "hw.model": "Mac15,9\n",
    "iogpu.wired_limit_mb": "0\n",
    "ioreg": IOREG,
    "vm_stat": VM_STAT,
    "device": json.dumps(
        {
            "kind": "apple",
            "mlx": "0.32.4",
            "name": "Apple M3 Max",
            "architecture": "applegpu_g15s",
            "memory_bytes": MAC_MEMORY,
            "recommended_bytes": RECOMMENDED,
        }
    ),
}

CARD_MEMORY = 85_017_493_504
CARD_FIGURES: dict[str, Any] = {
    "clock_khz": 1_980_000,
    "multiprocessors": 132,
    "memory_clock_khz": 2_619_000,
    "memory_bus_bits": 5120,
    "capability_major": 9,
    "capability_minor": 0,
}
H100_FACTS: dict[str, Any] = {
    "kind": "cuda",
    "mlx": "0.32.4",
    "name": "NVIDIA H100 80GB HBM3",
    "architecture": "sm_90a",
    "memory_bytes": CARD_MEMORY,
    "free_bytes": 80_000_000_000,
    "card_id": "0000:00:06.0",
    "card": CARD_FIGURES,
}
H100 = {"nvidia-smi": "81076\n", "device": json.dumps(H100_FACTS)}


class Answers:
    """Stands in for `run`: answers by what a command line ends with or begins with."""

    def __init__(self, texts: dict[str, str | None]) -> None:
        self.texts = dict(texts)
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str], seconds: float) -> str | None:
        assert seconds <= 30  # else a person would wonder
        self.asked.append(list(command))
        return self.texts.get(command[-1], self.texts.get(command[0]))

    def times(self, word: str) -> int:
        return sum(word in command for command in self.asked)


def mac(**changes: Any) -> tuple[Host, Answers]:
    answers = Answers(MAC | changes)
    return Host("darwin", answers), answers


def linux(texts: dict[str, str | None]) -> tuple[Host, Answers]:
    answers = Answers(texts)
    return Host("linux", answers), answers
