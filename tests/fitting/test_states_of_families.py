"""Every family's states, after a forward pass, hold what was predicted from its config, layer by layer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx, on_stream
from mlxone.fitting.states import kv_bytes, layer_bytes
from mlxone.fitting.weights import element_bytes, weights_bytes
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.models.families.table import spec_of
from mlxone.models.loading import load_decoder
from tests.fitting.families import TINY

PROMPT = 61  # past every window, and a buffer's first room is larger


def _one_each() -> list[str]:
    """Of every family its first config, and every one whose layers are not all of one kind."""
    seen: set[str] = set()
    chosen = []
    for name, config in TINY.items():
        spec = spec_of(Config(config))
        mixed = len({str(layer.mixer) for layer in spec.layers}) > 1
        if spec.family not in seen or (mixed and "-" not in name):
            chosen.append(name)
        seen.add(spec.family)
    return chosen


@pytest.fixture(params=_one_each())
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Not of the type that everything is float32 in: what stays float32 must show."""
    config = TINY[request.param]
    save_random_model(tmp_path / "m", config, dtype=mx.float32 if "experts" in str(config) else mx.bfloat16)
    return tmp_path / "m"


def after(decoder: Decoder, length: int) -> ModelState:
    state = decoder.new_state()
    with on_stream():
        for part in (length - 1, 1):  # one token at last: what a chunk leaves beside a window goes with it
            mx.eval(decoder.hidden(mx.zeros((1, part), mx.int32), state), [s.arrays() for s in state.layers])
    return state


@pytest.mark.parametrize("mode", ["native", "wide"])
def test_states_hold_what_was_predicted(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: str):
    monkeypatch.setenv("MLXONE_CPU", mode)
    decoder, facts = load_decoder(folder), read_facts(folder, Config.read(folder))
    work, element = Work(PROMPT), element_bytes(facts, "stored" if mode == "native" else "wide")
    state = after(decoder, PROMPT)
    predicted: Counter[int] = Counter()
    for layer in facts.layers:
        predicted[layer_bytes(facts, layer, work, element)] += layer.count
    del predicted[0]
    assert Counter(layer.nbytes for layer in state.layers) == predicted
    assert state.nbytes == kv_bytes(facts, work, element)


def test_weights_take_what_was_predicted(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_CPU", "native")
    decoder, facts = load_decoder(folder), read_facts(folder, Config.read(folder))
    held = sum({id(array): array.nbytes for array in decoder.arrays()}.values())
    assert held == pytest.approx(weights_bytes(facts), rel=0.02)
    assert facts.sidecar_bytes == 0
