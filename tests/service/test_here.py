"""What `ls` asks of many models at once, against what `fit` says of each."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlxone.fitting.learned import ENOUGH
from mlxone.fitting.report import Case
from mlxone.fitting.store import Measurement
from mlxone.fitting.work import Work
from mlxone.hub import places
from mlxone.hub.entry import Entry
from mlxone.service import fitting, here
from mlxone.service.here import fits_here, learned_store
from mlxone.service.registry import Registry
from tests.cli.shelf import cached
from tests.fitting.cases import GB, SMALL, machine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def entries() -> list[Entry]:
    for name in ("Llama-3.3-70B", "gemma-4-12B", "gemma-4-26B-A4B", "Qwen3.5-4B"):
        cached(f"org/{name}", name)
    with Registry() as registry:
        return list(registry.list())


def on(monkeypatch: pytest.MonkeyPatch, usable: int) -> None:
    for module in (here, fitting):
        monkeypatch.setattr(module, "this_machine", lambda store: machine(usable, kind="cuda"))


@pytest.mark.parametrize("usable", [1, 8, 14, 24, 64])
def test_each_as_fit_says(entries: list[Entry], monkeypatch: pytest.MonkeyPatch, usable: int):
    on(monkeypatch, usable * GB)
    assert fits_here(entries) == [fitting.fit(entry.path).fits for entry in entries]


def test_by_hand(entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    on(monkeypatch, 24 * GB)  # 39.7 GB of weights do not, 14.2, 6.7 and 2.4 do
    found = dict(zip([entry.repo for entry in entries], fits_here(entries), strict=True))
    assert found == {
        "org/Llama-3.3-70B": False, "org/gemma-4-12B": True, "org/gemma-4-26B-A4B": True,
        "org/Qwen3.5-4B": True,
    }  # fmt: skip


def test_free_memory_is_not_the_question(entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(here, "this_machine", lambda store: machine(64 * GB, free=0, kind="cuda"))
    assert fits_here(entries) == [True] * 4


def test_what_was_learned_counts(entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    [gemma] = [entry for entry in entries if entry.repo == "org/gemma-4-12B"]
    on(monkeypatch, 64 * GB)
    total = fitting.fit(gemma.path).total_bytes
    on(monkeypatch, total)
    assert fits_here([gemma]) == [True]
    with learned_store() as store:
        key = machine(total, kind="cuda").key
        for _ in range(ENOUGH):
            store.add_measurement(Measurement("transient", key, "org/m", 1e9, 1.5e9))
    assert fits_here([gemma]) == [False]


def test_a_short_model_is_asked_for_its_own_context(entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    there = machine(kind="cuda")
    on(monkeypatch, Case(SMALL, there).needs(Work(256)).total_bytes)
    short = replace(entries[0], facts=replace(SMALL, context_length=256))
    usual = replace(entries[0], facts=SMALL)
    assert fits_here([short, usual]) == [True, False]


def test_unknown_facts_ask_nothing(entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    unknown = replace(entries[0], facts=None)
    monkeypatch.setattr(here, "this_machine", lambda store: pytest.fail("nobody wants to know"))
    assert fits_here([unknown, unknown]) == [None, None]
    assert fits_here([]) == []
    assert not (places.home() / "learned.sqlite").exists()
    on(monkeypatch, GB)
    assert fits_here([entries[0], unknown])[1] is None


def test_thousands_ask_the_system_once(entries: list[Entry], monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []

    def counted(store: object) -> object:
        asked.append(store)
        return machine(GB, kind="cpu")

    monkeypatch.setattr(here, "this_machine", counted)
    assert len(fits_here(entries * 50)) == 200
    assert len(asked) == 1


def test_neither_mlx_nor_the_hubs_client_is_loaded():
    code = (
        "import json, sys\nfrom mlxone.service.here import fits_here\nfits_here([])\n"
        "print(json.dumps([n for n in ('mlx', 'huggingface_hub', 'numpy') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(done.stdout) == []
