"""Small questions to the operating system: canned answers, torn answers, and this machine's own."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.backend import cpu
from mlxone.core.about import own_command
from mlxone.fitting import host
from mlxone.fitting.host import Host
from tests.fitting.canned import GIB, H100, H100_FACTS, IOREG, VM_STAT, linux, mac

PYTHON = [sys.executable, "-c"]


# Commands -----------------------------------------------------------------------------------


def test_a_command_that_answers():
    assert host.run([*PYTHON, "print('Größe')"], 60) == "Größe\n"


@pytest.mark.parametrize(
    "command",
    [["no-such-command-anywhere"], [*PYTHON, "print(1); raise SystemExit(3)"], [os.devnull]],
)
def test_one_that_does_not(command: list[str]):
    assert host.run(command, 60) is None


def test_one_that_takes_too_long():
    assert host.run([*PYTHON, "import time; time.sleep(600)"], 0.2) is None


def test_a_command_gets_no_input_and_may_say_anything():
    assert host.run([*PYTHON, "import sys; print(sys.stdin.read())"], 60) == "\n"
    assert host.run([*PYTHON, r"import sys; sys.stdout.buffer.write(b'\xff7')"], 60) == "\ufffd7"


# The device's facts -------------------------------------------------------------------------


def test_the_command_is_our_own_program(monkeypatch: pytest.MonkeyPatch):
    assert host.device_command() == [*own_command(), "device"]
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert host.device_command() == [sys.executable, "device"]


@pytest.mark.parametrize("before", ["", "some library greets\n", '{"kind": "cpu"}\n'])
def test_facts_are_the_last_line(before: str):
    asked, _ = linux({"device": before + H100["device"] + "\n"})
    assert host.device_facts(asked) == H100_FACTS


@pytest.mark.parametrize(
    "text",
    [None, "", "\n", "{", "[]", "null", "7", "{}",
     '{"kind": "toaster"}', '{"kind": ["cpu"]}', '{"kind": "cpu"}\nbye'],
)  # fmt: skip
def test_what_is_no_facts(text: str | None):
    asked, _ = linux({"device": text})
    assert host.device_facts(asked) is None


# A Mac --------------------------------------------------------------------------------------


def test_a_macs_answers():
    asked, _ = mac()
    assert host.sysctl(asked, "machdep.cpu.brand_string") == "Apple M3 Max"
    assert host.sysctl_number(asked, "hw.memsize") == 128 * GIB
    assert host.gpu_cores(asked) == 40
    assert host.mac_available(asked) == (120_000 + 30_000 + 800_000) * 16_384


def test_pages_of_another_size():
    asked, _ = mac(vm_stat=VM_STAT.replace("16384", "4096"))
    assert host.mac_available(asked) == (120_000 + 30_000 + 800_000) * 4096


@pytest.mark.parametrize("text", [None, "", "vm_stat: failed", "Pages free: 7.", "(page size of 4096 bytes)"])
def test_a_mac_that_does_not_say_what_is_free(text: str | None):
    assert host.mac_available(mac(vm_stat=text)[0]) is None


@pytest.mark.parametrize("text", [None, "", "unknown oid", "-"])
def test_a_mac_that_does_not_say_a_number(text: str | None):
    asked, _ = mac(**{"hw.memsize": text, "ioreg": text, "hw.model": None})
    assert host.sysctl_number(asked, "hw.memsize") is None
    assert host.gpu_cores(asked) is None
    assert host.sysctl(asked, "hw.model") is None


@given(st.sampled_from([VM_STAT, IOREG, H100["nvidia-smi"]]), st.data())
def test_answers_cut_anywhere_are_numbers_or_none(text: str, data: st.DataObject):
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    asked, _ = mac(**dict.fromkeys(("vm_stat", "ioreg", "nvidia-smi"), text[start:end]))
    for answer in (host.mac_available(asked), host.gpu_cores(asked), host.card_free(asked, None)):
        assert answer is None or answer >= 0


# Linux --------------------------------------------------------------------------------------


def test_what_is_free_on_a_card():
    asked, answers = linux(H100)
    answers.texts["--format=csv,noheader,nounits"] = H100["nvidia-smi"]
    assert host.card_free(asked, None) == 81_076 * 2**20
    assert host.card_free(asked, "0000:00:06.0") == 81_076 * 2**20
    assert answers.asked[1][1:3] == ["-i", "0000:00:06.0"]


@pytest.mark.parametrize(
    "text", [None, "", "[N/A]\n", "[Not Supported]", "No devices were found", "81076 MiB"]
)
def test_a_card_that_does_not_say(text: str | None):
    assert host.card_free(linux({"nvidia-smi": text})[0], None) is None


def test_signs_of_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sign = tmp_path / "nvidia"
    monkeypatch.setattr(host, "DRIVER_SIGNS", (tmp_path / "other", sign))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert not host.has_nvidia_driver()
    sign.mkdir()
    assert host.has_nvidia_driver()
    sign.rmdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.touch(0o755)
    assert host.has_nvidia_driver()


@pytest.mark.parametrize(
    ("limits", "gigabytes"),
    [
        ({}, 64),
        ({"memory.max": "max"}, 64),
        ({"memory.max": str(8 * GIB)}, 8),
        ({"memory.max": str(99 * GIB)}, 64),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, 64),
        ({"memory/memory.limit_in_bytes": str(4 * GIB), "memory.max": str(8 * GIB)}, 4),
        ({"memory.max": "plenty"}, 64),
    ],
)
def test_all_memory_is_the_machines_or_its_containers(
    limits: dict[str, str], gigabytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(cpu, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)
    assert host.total_memory() == gigabytes * GIB


def test_the_processors_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "cpuinfo")
    assert host.processor_name()  # nowhere to read it: the architecture's
    host.CPUINFO.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9B14 \nmodel name\t: another\n")
    assert host.processor_name() == "AMD EPYC 9B14"
    host.CPUINFO.write_text("processor\t: 0\nCPU part\t: 0xd0c\n")
    assert not re.search(r"\s", host.processor_name())


@pytest.mark.skipif(sys.platform != "linux", reason="asks this machine")
def test_this_machine():
    assert 0 < cpu.available_memory() <= host.total_memory()
    assert host.sysctl_number(Host(run=lambda *_: None), "hw.memsize") is None
