"""The machine a model shall fit: Macs and cards by canned answers, the CPU by a pretended /proc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend import cpu
from mlxone.fitting import host, machine
from mlxone.fitting.chips import APPLE, CARDS, Chip, apple
from mlxone.fitting.host import Host
from mlxone.fitting.machine import Machine, as_sold, remember_speed, this_machine, weight_rule
from mlxone.fitting.store import Store
from tests.fitting.canned import (
    CARD_FIGURES,
    CARD_MEMORY,
    GIB,
    H100,
    H100_FACTS,
    MAC_MEMORY,
    RECOMMENDED,
    linux,
    mac,
)

ROOT = Path(__file__).parents[2]
AVAILABLE = 950_000 * 16_384  # by canned vm_stat


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with closing(Store(tmp_path / "learned.sqlite", clock=clock)) as made:
        yield made


@pytest.fixture
def plain_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux machine of 64 GiB, 40 of them available; no container, no card."""
    (tmp_path / "meminfo").write_text(f"MemAvailable: {40 * GIB // 1024} kB\n")
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\n")
    (tmp_path / "groups").mkdir()
    monkeypatch.setattr(cpu, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cpu, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(host, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)
    return tmp_path


@pytest.fixture
def with_card(plain_linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "has_nvidia_driver", lambda: True)


# A Mac --------------------------------------------------------------------------------------


def test_a_mac(store: Store):
    chip = apple("Apple M3 Max", 40)
    assert this_machine(store, mac()[0]) == Machine(
        kind="apple",
        name="Apple M3 Max",
        chip=chip,
        memory_bytes=MAC_MEMORY,
        usable_bytes=RECOMMENDED,
        free_now_bytes=AVAILABLE,
        bandwidth=400e9,
        flops=chip.flops,
    )


@pytest.mark.parametrize(
    ("changes", "usable"),
    [
        ({"device": None}, MAC_MEMORY * 3 // 4),
        ({"device": "Segmentation fault"}, MAC_MEMORY * 3 // 4),
        ({"device": '{"kind": "apple"}'}, MAC_MEMORY * 3 // 4),
        ({"device": '{"kind": "apple", "recommended_bytes": "much"}'}, MAC_MEMORY * 3 // 4),
        ({"device": '{"kind": "apple", "recommended_bytes": NaN}'}, MAC_MEMORY * 3 // 4),
        ({"device": f'{{"kind": "apple", "recommended_bytes": {2 * MAC_MEMORY}}}'}, MAC_MEMORY),
        ({"iogpu.wired_limit_mb": "122880"}, 120 * GIB),  # what a user sets is what Metal goes by
        ({"iogpu.wired_limit_mb": "65536"}, 64 * GIB),
        ({"iogpu.wired_limit_mb": None}, RECOMMENDED),  # an older system has no such setting
        ({"iogpu.wired_limit_mb": "999999999"}, MAC_MEMORY),
    ],
)
def test_what_a_model_may_use_on_a_mac(store: Store, changes: dict[str, str | None], usable: int):
    assert this_machine(store, mac(**changes)[0]).usable_bytes == usable


def test_what_is_free_is_never_more_than_what_is_usable(store: Store):
    busy = this_machine(store, mac(**{"iogpu.wired_limit_mb": "8192"})[0])
    assert (busy.usable_bytes, busy.free_now_bytes) == (8 * GIB, 8 * GIB)
    silent = this_machine(store, mac(vm_stat=None)[0])
    assert silent.free_now_bytes == silent.usable_bytes


def test_a_mac_whose_chip_is_in_no_table_has_no_speed(store: Store):
    found = this_machine(store, mac(**{"machdep.cpu.brand_string": "Apple M9 Max"})[0])
    assert (found.name, found.chip, found.bandwidth, found.flops) == ("Apple M9 Max", None, None, None)
    assert found.usable_bytes == RECOMMENDED


def test_a_mac_that_does_not_count_its_cores_is_known_by_its_memory(store: Store):
    assert this_machine(store, mac(ioreg=None)[0]).chip.gpu_cores == 40
    smaller = mac(**{"ioreg": None, "hw.memsize": str(36 * GIB)})[0]
    assert this_machine(store, smaller).chip.gpu_cores == 30


def test_a_mac_that_says_nothing_at_all(store: Store, plain_linux: Path):
    found = this_machine(store, Host("darwin", lambda *_: None))
    assert (found.kind, found.memory_bytes, found.usable_bytes) == ("apple", 64 * GIB, 48 * GIB)
    assert found.chip is None


# Remembering --------------------------------------------------------------------------------


def test_mlx_is_asked_once(store: Store):
    asked, answers = mac()
    first, second = this_machine(store, asked), this_machine(store, asked)
    assert first == second
    assert answers.times("device") == 1
    assert answers.times("vm_stat") == 2, "what is free is asked each time"


def test_and_again_after_a_week(store: Store, clock: Clock):
    asked, answers = mac()
    this_machine(store, asked)
    clock.now += machine.FACTS_SECONDS + 1
    this_machine(store, asked)
    assert answers.times("device") == 2


@pytest.mark.parametrize("change", ["builds", "memory", "model"])
def test_another_mlx_or_machine_is_asked_anew(store: Store, change: str, monkeypatch: pytest.MonkeyPatch):
    asked, answers = mac()
    this_machine(store, asked)
    if change == "builds":
        monkeypatch.setattr(machine, "_builds", lambda: "mlxone 99")
    answers.texts |= {"memory": {"hw.memsize": str(GIB)}, "model": {"hw.model": "Mac99,1"}}.get(change, {})
    this_machine(store, asked)
    assert answers.times("device") == 2


def test_a_failure_is_remembered_for_a_short_while(store: Store, clock: Clock):
    asked, answers = mac(device=None)
    for _ in range(3):
        assert this_machine(store, asked).usable_bytes == MAC_MEMORY * 3 // 4
    assert answers.times("device") == 1
    answers.texts["device"] = mac()[1].texts["device"]
    clock.now += machine.FAILURE_SECONDS + 1
    assert this_machine(store, asked).usable_bytes == RECOMMENDED


def test_builds_name_what_is_installed():
    from importlib.metadata import version

    assert f"mlx {version('mlx')}" in machine._builds().split(", ")


# A card -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_card")
def test_a_card(store: Store):
    asked, answers = linux(H100)
    found = this_machine(store, asked)
    chip = CARDS["NVIDIA H100 80GB HBM3"]
    assert (found.kind, found.name, found.chip) == ("cuda", chip.name, chip)
    assert (found.bandwidth, found.flops) == (3350e9, 989e12)
    assert found.memory_bytes == CARD_MEMORY
    assert found.usable_bytes == CARD_MEMORY - machine.CARD_RESERVE
    assert found.free_now_bytes == 81_076 * 2**20 - machine.CARD_RESERVE
    assert "0000:00:06.0" in answers.asked[-1]


@pytest.mark.usefixtures("with_card")
def test_a_card_in_use(store: Store):
    found = this_machine(store, linux(H100 | {"nvidia-smi": "1000\n"})[0])
    assert found.free_now_bytes == 1000 * 2**20 - machine.CARD_RESERVE
    full = this_machine(store, linux(H100 | {"nvidia-smi": "3\n"})[0])
    assert full.free_now_bytes == 0


@pytest.mark.usefixtures("with_card")
def test_without_nvidia_smi_a_fresh_answer_of_mlx_says_what_is_free(store: Store):
    asked, answers = linux(H100 | {"nvidia-smi": None})
    this_machine(store, asked)
    answers.texts["device"] = json.dumps(H100_FACTS | {"free_bytes": 7 * GIB})
    assert this_machine(store, asked).free_now_bytes == 7 * GIB - machine.CARD_RESERVE


@pytest.mark.usefixtures("with_card")
def test_an_unknown_card_is_estimated_or_has_no_speed(store: Store):
    facts = H100_FACTS | {"name": "NVIDIA H101"}
    found = this_machine(store, linux(H100 | {"device": json.dumps(facts)})[0])
    assert found.name == "NVIDIA H101"
    assert found.bandwidth == pytest.approx(3350e9, rel=0.01)


@pytest.mark.usefixtures("with_card")
@pytest.mark.parametrize(
    "figures", [None, 7, {}, {"multiprocessors": 132}, CARD_FIGURES | {"clock_khz": "x"}]
)
def test_a_card_whose_figures_are_missing_has_no_speed(store: Store, figures: Any):
    facts = H100_FACTS | {"name": "NVIDIA H101", "card": figures}
    found = this_machine(store, linux(H100 | {"device": json.dumps(facts)})[0])
    assert (found.kind, found.chip, found.bandwidth, found.flops) == ("cuda", None, None, None)


@pytest.mark.usefixtures("with_card")
@pytest.mark.parametrize(
    "device",
    [None, '{"kind": "cpu"}', '{"kind": "cuda"}', '{"kind": "cuda", "memory_bytes": -1}'],
    ids=["no answer", "MLX without CUDA", "no size", "no size either"],
)
def test_a_card_mlx_does_not_use_is_none(store: Store, device: str | None):
    assert this_machine(store, linux({"device": device})[0]).kind == "cpu"


@pytest.mark.usefixtures("with_card")
def test_other_cards_made_visible_are_asked_anew(store: Store, monkeypatch: pytest.MonkeyPatch):
    asked, answers = linux(H100)
    this_machine(store, asked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    this_machine(store, asked)
    assert answers.times("device") == 2


# A CPU --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plain_linux")
def test_a_linux_cpu_asks_nobody(store: Store):
    asked, answers = linux({})
    assert this_machine(store, asked) == Machine("cpu", "Some CPU", None, 64 * GIB, 48 * GIB, 40 * GIB)
    assert answers.asked == []


def test_a_container(store: Store, plain_linux: Path):
    (plain_linux / "groups" / "memory.max").write_text(f"{8 * GIB}\n")
    (plain_linux / "groups" / "memory.current").write_text(f"{7 * GIB}\n")
    found = this_machine(store, linux({})[0])
    assert (found.memory_bytes, found.usable_bytes, found.free_now_bytes) == (8 * GIB, 6 * GIB, GIB)


@pytest.mark.usefixtures("plain_linux")
def test_speed_that_was_measured_is_used_where_no_table_has_it(store: Store):
    found = this_machine(store, linux({})[0])
    remember_speed(store, found, 40e9, 0.5e12)
    again = this_machine(store, linux({})[0])
    assert again == replace(found, bandwidth=40e9, flops=0.5e12)
    store.put(f"speed {found.key}", {"bandwidth": "fast"})
    assert this_machine(store, linux({})[0]) == found


def test_a_table_goes_before_what_was_measured(store: Store):
    found = this_machine(store, mac()[0])
    remember_speed(store, found, 1.0, 1.0)
    assert this_machine(store, mac()[0]) == found


@pytest.mark.skipif(sys.platform != "linux", reason="asks this machine")
def test_this_very_machine(store: Store):
    found = this_machine(store)
    assert 0 < found.free_now_bytes <= found.usable_bytes < found.memory_bytes
    assert found.name


def test_asking_brings_no_mlx_into_the_process(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from mlxone.fitting.machine import *\n"
        "this_machine(Store(Path(sys.argv[1])))\nprint('mlx' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.sqlite")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


# The CPU's form of weights ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wide", "blas", "form"),
    [(20 * GIB, True, "wide"), (20 * GIB + 1, True, "packed"), (1, False, "stored")],
)
@pytest.mark.usefixtures("plain_linux")
def test_weights_take_the_form_loading_would_give_them(
    store: Store, wide: int, blas: bool, form: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cpu, "blas_at_hand", lambda: blas)
    monkeypatch.setattr(sys, "platform", "linux")
    assert weight_rule(this_machine(store, linux({})[0]))(wide) == form


def test_only_a_cpu_widens(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cpu, "blas_at_hand", lambda: True)
    assert weight_rule(this_machine(store, mac()[0]))(1) == "stored"


# Macs that are not here ---------------------------------------------------------------------


@pytest.mark.parametrize("chip", APPLE, ids=lambda chip: chip.label)
def test_a_mac_as_sold(chip: Chip):
    found = [as_sold(chip, size) for size in chip.memory_options]
    assert [m.memory_bytes for m in found] == [size * 2**30 for size in chip.memory_options]
    assert all(m.free_now_bytes == m.usable_bytes == m.memory_bytes * 3 // 4 for m in found)
    assert {(m.bandwidth, m.flops) for m in found} == {(chip.bandwidth, chip.flops)}
    assert len({m.key for m in found}) == len(found)


def test_keys_tell_variants_of_one_chip_apart(store: Store):
    whole, lesser = (this_machine(store, mac(ioreg=f'"gpu-core-count" = {cores}')[0]) for cores in (40, 30))
    assert (whole.name, whole.memory_bytes) == (lesser.name, lesser.memory_bytes)
    assert whole.key != lesser.key


def test_keys_tell_machines_apart():
    chips = [as_sold(chip, size).key for chip in APPLE for size in chip.memory_options]
    assert len(set(chips)) == len(chips)


# Whatever comes out of a process or a file --------------------------------------------------

anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([])
)


@given(kind=st.sampled_from(["apple", "cuda", "cpu"]), values=st.lists(anything, min_size=6, max_size=6))
def test_any_facts_give_a_machine_in_order(kind: str, values: list[Any]):
    names = ("name", "memory_bytes", "recommended_bytes", "free_bytes", "card_id", "card")
    facts = json.dumps({"kind": kind} | dict(zip(names, values, strict=True)))
    with closing(Store(Path(os.devnull) / "nowhere")) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "has_nvidia_driver", lambda: True)
        for asked in (mac(device=facts)[0], linux({"device": facts, "nvidia-smi": "x"})[0]):
            found = this_machine(store, asked)
            assert 0 <= found.free_now_bytes <= found.usable_bytes <= found.memory_bytes
            assert isinstance(found.name, str)
