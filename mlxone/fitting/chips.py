"""What chips can do: Apple's M line and the NVIDIA cards people run models on, as a literal table.

Figures are peaks; how much of a peak a model reaches is the estimate's business. A chip that is not here
has no speed to predict (None), never a made-up one. Rumoured chips are not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

GB = 10**9
GIB = 2**30  # what both Apple and NVIDIA mean by the GB of a machine's memory


@dataclass(frozen=True, slots=True)
class Chip:
    name: str
    gpu_cores: int  # NVIDIA: streaming multiprocessors
    memory_options: tuple[int, ...]  # GB as sold: GIB bytes each
    bandwidth: float  # bytes/s
    flops: float  # half-precision matrix products, per second

    @property
    def label(self) -> str:
        """The name, with the cores that tell variants of one Apple chip apart."""
        return f"{self.name} {self.gpu_cores}-core"


# How many half-precision operations one GPU core does in one clock. An Apple GPU core has 128 ALUs, each
# doing one multiply-add (2 operations). From M5 on it also has a matrix unit (Apple: "neural accelerator")
# that does 4 times as much: 1,024 were measured. That counts for prefill; decoding waits for memory anyway.
ALUS, MATRIX_UNIT = 2 * 128, 1024


def _apple(name: str, cores: int, memory: tuple[int, ...], gigabytes: float, megahertz: int) -> Chip:
    per_clock = MATRIX_UNIT if name.startswith("M5") else ALUS
    return Chip(name, cores, memory, gigabytes * GB, cores * megahertz * 1e6 * per_clock)


# Cores, memory options and bandwidth: Apple's technical specifications, where Apple gives "up to" a rounded
# figure that one. Clock: the highest that powermetrics shows. A row for each number of GPU cores.
APPLE: tuple[Chip, ...] = (
    # M1: the bandwidth is that of its 128-bit LPDDR4X-4266; Apple gives none.
    _apple("M1", 7, (8, 16), 68.3, 1278),
    _apple("M1", 8, (8, 16), 68.3, 1278),
    _apple("M1 Pro", 14, (16, 32), 200, 1296),
    _apple("M1 Pro", 16, (16, 32), 200, 1296),
    _apple("M1 Max", 24, (32, 64), 400, 1296),
    _apple("M1 Max", 32, (32, 64), 400, 1296),
    _apple("M1 Ultra", 48, (64, 128), 800, 1296),
    _apple("M1 Ultra", 64, (64, 128), 800, 1296),
    # M2: Apple's specifications.
    _apple("M2", 8, (8, 16, 24), 100, 1398),
    _apple("M2", 10, (8, 16, 24), 100, 1398),
    _apple("M2 Pro", 16, (16, 32), 200, 1398),
    _apple("M2 Pro", 19, (16, 32), 200, 1398),
    _apple("M2 Max", 30, (32, 64), 400, 1398),
    _apple("M2 Max", 38, (32, 64, 96), 400, 1398),
    _apple("M2 Ultra", 60, (64, 128, 192), 800, 1398),
    _apple("M2 Ultra", 76, (64, 128, 192), 800, 1398),
    # M3: Apple's specifications. The smaller Max has a memory channel in four less.
    _apple("M3", 8, (8, 16, 24), 100, 1398),
    _apple("M3", 10, (8, 16, 24), 100, 1398),
    _apple("M3 Pro", 14, (18, 36), 150, 1398),
    _apple("M3 Pro", 18, (18, 36), 150, 1398),
    _apple("M3 Max", 30, (36, 96), 300, 1398),
    _apple("M3 Max", 40, (48, 64, 128), 400, 1398),
    _apple("M3 Ultra", 60, (96, 256), 819, 1398),
    _apple("M3 Ultra", 80, (96, 256, 512), 819, 1398),
    # M4: Apple's specifications. There is no Ultra.
    _apple("M4", 8, (16, 24), 120, 1470),
    _apple("M4", 10, (16, 24, 32), 120, 1470),
    _apple("M4 Pro", 16, (24, 48, 64), 273, 1578),
    _apple("M4 Pro", 20, (24, 48, 64), 273, 1578),
    _apple("M4 Max", 32, (36,), 410, 1578),
    _apple("M4 Max", 40, (48, 64, 128), 546, 1578),
    # M5: Apple's announcements. The clock was read on an M5 and is taken for the larger ones.
    _apple("M5", 8, (16,), 153, 1578),
    _apple("M5", 10, (16, 24, 32), 153, 1578),
    _apple("M5 Pro", 20, (24, 48, 64), 307, 1578),
    _apple("M5 Max", 32, (36,), 460, 1578),
    _apple("M5 Max", 40, (48, 64, 128), 614, 1578),
)


def apple(brand: str, gpu_cores: int | None, memory_gb: int | None = None) -> Chip | None:
    """The chip a Mac names ("Apple M3 Max"); None for one this table does not know.

    Where the number of cores is not known, memory that only one variant was sold with decides, else
    the smallest variant is taken: rather too slow a prediction than too fast a one.
    """
    name = brand.removeprefix("Apple ").strip()
    variants = [chip for chip in APPLE if chip.name == name]
    if not variants:
        return None
    if gpu_cores is None:
        return next((chip for chip in variants if memory_gb in chip.memory_options), variants[0])
    near = min(variants, key=lambda chip: abs(chip.gpu_cores - gpu_cores))
    if near.gpu_cores == gpu_cores:
        return near
    return replace(near, gpu_cores=gpu_cores, flops=near.flops * gpu_cores / near.gpu_cores)


def _card(name: str, cores: int, memory: int, gigabytes: float, teraflops: float) -> Chip:
    return Chip(name, cores, (memory,), gigabytes * GB, teraflops * 1e12)


# By the name the driver reports, which tells forms of one card apart. Bandwidth and dense tensor throughput
# (float16, sums in float32) are those of NVIDIA's data sheets; the sheets' sparse figures are halved.
CARDS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        _card("NVIDIA H200", 132, 141, 4800, 989),
        _card("NVIDIA H200 NVL", 132, 141, 4800, 835),
        _card("NVIDIA H100 80GB HBM3", 132, 80, 3350, 989),
        _card("NVIDIA H100 NVL", 132, 94, 3900, 835),
        _card("NVIDIA H100 PCIe", 114, 80, 2000, 756),
        _card("NVIDIA A100-SXM4-80GB", 108, 80, 2039, 312),
        _card("NVIDIA A100 80GB PCIe", 108, 80, 1935, 312),
        _card("NVIDIA A100-SXM4-40GB", 108, 40, 1555, 312),
        _card("NVIDIA A100-PCIE-40GB", 108, 40, 1555, 312),
        _card("NVIDIA L40S", 142, 48, 864, 362),
        _card("NVIDIA L4", 58, 24, 300, 121),
        _card("NVIDIA GeForce RTX 5090", 170, 32, 1792, 209.5),
        _card("NVIDIA GeForce RTX 4090", 128, 24, 1008, 165.2),
        _card("NVIDIA GeForce RTX 3090", 82, 24, 936, 71),
    )
}


@dataclass(frozen=True, slots=True)
class CardProperties:
    """What the driver says of a card, in its own units."""

    multiprocessors: int
    clock_khz: int
    memory_clock_khz: int
    memory_bus_bits: int
    capability_major: int
    capability_minor: int


# Dense float16 tensor operations of one multiprocessor in one clock, by compute capability. Where NVIDIA
# sells both a slow and a fast form of one capability, the slow one.
TENSOR_PER_CLOCK: Mapping[tuple[int, int], int] = {
    (7, 0): 1024,
    (7, 5): 512,
    (8, 0): 2048,
    (8, 6): 512,
    (8, 9): 512,
    (9, 0): 4096,
    (12, 0): 512,
}


def card(name: str, properties: CardProperties | None = None) -> Chip | None:
    """The card of this name, else an estimate from what the driver reports, else None.

    Names have to be equal but for case and spaces: a laptop's "RTX 4090" is another card.
    """
    wanted = _plain(name)
    known = next((chip for reported, chip in CARDS.items() if _plain(reported) == wanted), None)
    return known or (_estimated(name, properties) if properties else None)


def _plain(name: str) -> str:
    return re.sub(r"\s+", " ", name).strip().casefold()


def _estimated(name: str, said: CardProperties) -> Chip | None:
    per_clock = TENSOR_PER_CLOCK.get((said.capability_major, said.capability_minor))
    # Memory of such cards moves data at both edges of its clock.
    bandwidth = 2 * said.memory_clock_khz * 1e3 * said.memory_bus_bits / 8
    if per_clock is None or bandwidth <= 0 or said.multiprocessors <= 0 or said.clock_khz <= 0:
        return None
    flops = said.multiprocessors * said.clock_khz * 1e3 * per_clock
    return Chip(name, said.multiprocessors, (), bandwidth, flops)
