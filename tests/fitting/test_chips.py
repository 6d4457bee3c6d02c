"""The table of chips: consistent in itself, and found by the names machines report."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.fitting.chips import APPLE, CARDS, TENSOR_PER_CLOCK, CardProperties, Chip, apple, card

CLASSES = ("", " Pro", " Max", " Ultra")
GENERATIONS = ("M1", "M2", "M3", "M4", "M5")


def largest(name: str) -> Chip | None:
    return next((chip for chip in reversed(APPLE) if chip.name == name), None)


def line(generation: str) -> list[Chip]:
    """The fullest variant of each class of one generation, as far as they exist."""
    return [chip for cls in CLASSES if (chip := largest(generation + cls))]


# The table ----------------------------------------------------------------------------------


def test_every_row_is_one_chip_of_a_known_line():
    assert len({(chip.name, chip.gpu_cores) for chip in APPLE}) == len(APPLE)
    assert {chip.name for chip in APPLE} <= {g + c for g in GENERATIONS for c in CLASSES}
    assert {g for g in GENERATIONS if largest(g)} == set(GENERATIONS)
    # Never made, or not yet: a rumour is no row.
    assert largest("M4 Ultra") is largest("M5 Ultra") is None


def test_rows_stand_in_the_order_of_generation_class_and_cores():
    def place(chip: Chip) -> tuple[str, int, int]:
        return chip.name[:2], CLASSES.index(chip.name[2:]), chip.gpu_cores

    assert [place(chip) for chip in APPLE] == sorted(place(chip) for chip in APPLE)


@pytest.mark.parametrize("chip", [*APPLE, *CARDS.values()], ids=lambda chip: chip.label)
def test_a_row_in_itself(chip: Chip):
    assert chip.memory_options and list(chip.memory_options) == sorted(set(chip.memory_options))
    assert 50e9 < chip.bandwidth < 10e12
    assert 1e12 < chip.flops < 2e15
    # Operations for each byte: GPUs are built within these, so a slip of a power of ten shows.
    assert 15 < chip.flops / chip.bandwidth < 600


@pytest.mark.parametrize("generation", GENERATIONS)
def test_within_a_line_everything_grows(generation: str):
    for lesser, greater in pairwise(line(generation)):
        assert lesser.bandwidth < greater.bandwidth
        assert lesser.gpu_cores < greater.gpu_cores
        assert lesser.flops < greater.flops
        assert lesser.memory_options[-1] < greater.memory_options[-1]


def test_variants_of_one_chip_differ_in_the_same_direction():
    for lesser, greater in pairwise(APPLE):
        if lesser.name == greater.name:
            assert lesser.bandwidth <= greater.bandwidth
            assert lesser.flops < greater.flops
            assert lesser.memory_options[-1] <= greater.memory_options[-1]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_ultra_is_two_of_its_max(generation: str):
    ultra, whole = largest(f"{generation} Ultra"), largest(f"{generation} Max")
    if ultra is None:
        return
    assert ultra.gpu_cores == 2 * whole.gpu_cores
    assert ultra.flops == pytest.approx(2 * whole.flops)
    assert ultra.bandwidth == pytest.approx(2 * whole.bandwidth, rel=0.03)  # Apple rounds 409.6 to 400
    assert ultra.memory_options[-1] >= 2 * whole.memory_options[-1]


def test_generations_do_not_fall_behind():
    """All but one: the M3 Pro has a memory channel in four less than those before it."""
    slower = {
        later.name
        for cls in CLASSES
        for before, later in pairwise(filter(None, (largest(g + cls) for g in GENERATIONS)))
        if later.bandwidth < before.bandwidth
    }
    assert slower == {"M3 Pro"}


@pytest.mark.parametrize(
    ("name", "cores", "teraflops"),
    # Published peaks of the ALUs: Apple's own for M1 (2.6), M1 Max (10.4) and M2 (3.6).
    [("M1", 8, 2.6), ("M1 Max", 32, 10.4), ("M2", 10, 3.6)],
)
def test_the_rule_of_cores_and_clock_gives_apples_peaks(name: str, cores: int, teraflops: float):
    assert apple(name, cores).flops == pytest.approx(teraflops * 1e12, rel=0.03)


def test_matrix_units_make_the_m5_several_times_faster():
    """Apple: more than 4 times the peak GPU compute for AI of the M4."""
    for cls in ("", " Pro", " Max"):
        assert 3.5 < largest(f"M5{cls}").flops / largest(f"M4{cls}").flops < 4.5


# Finding a Mac's chip -----------------------------------------------------------------------


@pytest.mark.parametrize("chip", APPLE, ids=lambda chip: chip.label)
def test_every_row_is_found_by_what_a_mac_says(chip: Chip):
    assert apple(f"Apple {chip.name}", chip.gpu_cores) is chip


def test_memory_tells_variants_apart_where_cores_are_not_known():
    assert apple("Apple M3 Max", None, 128).gpu_cores == 40
    assert apple("Apple M3 Max", None, 96).gpu_cores == 30
    assert apple("Apple M4 Max", None).gpu_cores == 32, "rather too slow than too fast"
    assert apple("Apple M4 Max", None, 7).gpu_cores == 32
    assert apple("Apple M3 Max", 40, 96).gpu_cores == 40, "what is counted goes before what is inferred"


def test_a_variant_that_is_no_row_is_its_neighbour_with_fewer_cores():
    near = apple("Apple M3", 10)
    found = apple("Apple M3", 9)
    assert (found.name, found.gpu_cores, found.bandwidth) == ("M3", 9, near.bandwidth)
    assert found.flops == pytest.approx(near.flops * 9 / 10)


@pytest.mark.parametrize(
    "brand", ["", "Apple", "Apple M9 Max", "Apple M3 Maxi", "M", "Intel(R) Core(TM) i9-9980HK CPU @ 2.40GHz"]
)
def test_an_unknown_chip_is_none(brand: str):
    assert apple(brand, 40) is None
    assert apple(brand, None, 64) is None


@given(st.sampled_from(APPLE), st.none() | st.integers(1, 200), st.none() | st.integers(1, 1024))
def test_whatever_a_mac_counts_its_chip_keeps_its_name(chip: Chip, cores: int | None, memory: int | None):
    found = apple(f"Apple {chip.name}", cores, memory)
    assert found.name == chip.name
    assert cores is None or found.gpu_cores == cores
    assert found.bandwidth in {row.bandwidth for row in APPLE if row.name == chip.name}
    assert found.flops > 0


# Cards --------------------------------------------------------------------------------------


def test_cards_by_the_name_the_driver_reports():
    assert card("NVIDIA H100 80GB HBM3").bandwidth == 3350e9
    assert card("NVIDIA H100 PCIe").bandwidth == 2000e9
    assert card(" nvidia  h200 ").flops == 989e12


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ],
)
def test_a_card_that_only_sounds_alike_is_another(name: str):
    assert card(name) is None


# What an H100 80GB HBM3 answered.
H100 = CardProperties(132, 1_980_000, 2_619_000, 5120, 9, 0)


@pytest.mark.parametrize(
    ("name", "properties"),
    [
        ("NVIDIA H100 80GB HBM3", H100),
        # By NVIDIA's data sheets: SMs, boost clock, memory clock, bus, compute capability.
        ("NVIDIA A100-SXM4-40GB", CardProperties(108, 1_410_000, 1_215_000, 5120, 8, 0)),
        ("NVIDIA GeForce RTX 3090", CardProperties(82, 1_695_000, 9_751_000, 384, 8, 6)),
        ("NVIDIA GeForce RTX 4090", CardProperties(128, 2_520_000, 10_501_000, 384, 8, 9)),
        ("NVIDIA GeForce RTX 5090", CardProperties(170, 2_407_000, 14_001_000, 512, 12, 0)),
    ],
)
def test_an_estimate_comes_near_what_the_data_sheet_says(name: str, properties: CardProperties):
    known, estimate = card(name), card(f"{name} of another make", properties)
    assert estimate.bandwidth == pytest.approx(known.bandwidth, rel=0.01)
    assert estimate.flops == pytest.approx(known.flops, rel=0.1)
    assert card(name, properties) is known, "a data sheet goes before an estimate"


@pytest.mark.parametrize(
    "properties",
    [
        CardProperties(132, 1_980_000, 2_619_000, 5120, 99, 0),
        CardProperties(132, 1_980_000, 0, 0, 9, 0),  # memory shared with the processor
        CardProperties(0, 1_980_000, 2_619_000, 5120, 9, 0),
        CardProperties(132, 0, 2_619_000, 5120, 9, 0),
        CardProperties(-1, -1, -1, -1, 9, 0),
    ],
)
def test_where_nothing_sound_can_be_estimated_there_is_no_number(properties: CardProperties):
    assert card("NVIDIA Something", properties) is None


@given(st.sampled_from(sorted(TENSOR_PER_CLOCK)), st.tuples(*[st.integers(-10, 10**8)] * 4))
def test_an_estimate_is_none_or_positive(capability: tuple[int, int], numbers: tuple[int, ...]):
    found = card("NVIDIA Something", CardProperties(*(*numbers, *capability)))
    assert found is None or (found.bandwidth > 0 and found.flops > 0)
