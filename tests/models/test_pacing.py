"""A step that makes layer states move is submitted layer by layer; any other goes out whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.random_models import save_random_model
from mlxone.backend.arrays import mx, on_stream
from mlxone.kv.buffer import STEP
from mlxone.kv.plain import PlainState
from mlxone.kv.recurrent import RecurrentState
from mlxone.kv.rotating import RotatingState
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.models import checkpoints as c
from tests.models.tiny_families import CONFIGS

LAYERS = 7
WINDOW = 40
FULL = c.LLAMA | {"num_hidden_layers": LAYERS}
SLIDING = FULL | {"sliding_window": WINDOW, "layer_types": ["sliding_attention"] * LAYERS}


class Calls:
    """How often parts of a pass were submitted, and waited for."""

    def __init__(self) -> None:
        self.submitted = self.waited = 0

    def since(self) -> tuple[int, int]:
        found = self.submitted, self.waited
        self.submitted = self.waited = 0
        return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counted = Calls()
    submit, wait = mx.async_eval, mx.eval

    def submitting(*arrays: Any) -> None:
        counted.submitted += 1
        submit(*arrays)

    def waiting(*arrays: Any) -> None:
        counted.waited += 1
        wait(*arrays)

    monkeypatch.setattr(mx, "async_eval", submitting)
    monkeypatch.setattr(mx, "eval", waiting)
    return counted


def load(folder: Path, config: dict[str, Any]) -> Decoder:
    decoder = load_decoder(c.save(folder, config, c.tensors(config)))
    with on_stream():
        decoder.materialize()
    return decoder


def step(decoder: Decoder, state: ModelState, ids: Sequence[int], *, paced: bool = False) -> mx.array:
    with on_stream():
        return decoder.hidden(mx.array([ids]), state, paced=paced)


# All layers but the last, which goes out with what follows; two are in flight at most.
IN_PARTS = LAYERS - 1, LAYERS - 2
WHOLE = 0, 0


def test_a_step_that_outgrows_its_buffers_goes_out_in_parts(tmp_path: Path, calls: Calls):
    decoder = load(tmp_path / "m", FULL)
    state = decoder.new_state()
    calls.since()
    found = []
    for length in (STEP - 1, 1, 1, 1):  # the third of them is the first that has no room
        step(decoder, state, [5] * length)
        found.append(calls.since())
    assert found == [WHOLE, WHOLE, IN_PARTS, WHOLE]
    assert state.offset == STEP + 2


def test_so_does_one_that_drops_a_windows_surplus(tmp_path: Path, calls: Calls):
    decoder = load(tmp_path / "m", SLIDING)
    state = decoder.new_state()
    calls.since()
    found = []
    for length in (WINDOW + 10, 1, 1, 5, 1, 1):
        step(decoder, state, [5] * length)
        found.append(calls.since())
    # A first chunk has nothing to copy; several tokens always join the old ones in a new place.
    assert found == [WHOLE, IN_PARTS, WHOLE, IN_PARTS, IN_PARTS, WHOLE]


def test_a_caller_may_ask_for_it(tmp_path: Path, calls: Calls):
    decoder = load(tmp_path / "m", FULL)
    calls.since()
    step(decoder, decoder.new_state(), [1, 2, 3], paced=True)
    assert calls.since() == IN_PARTS


def test_the_last_layer_goes_out_with_what_follows(tmp_path: Path, calls: Calls):
    decoder = load(tmp_path / "m", FULL | {"num_hidden_layers": 2})
    calls.since()
    step(decoder, decoder.new_state(), [1, 2, 3], paced=True)
    assert calls.since() == (1, 0)


def test_one_layer_that_moves_is_enough(tmp_path: Path, calls: Calls):
    types = ["full_attention"] * (LAYERS - 1) + ["sliding_attention"]
    decoder = load(tmp_path / "m", FULL | {"sliding_window": WINDOW, "layer_types": types})
    state = decoder.new_state()
    step(decoder, state, [5] * (WINDOW + 1))
    calls.since()
    step(decoder, state, [5])
    assert calls.since() == IN_PARTS


@pytest.mark.parametrize("config", [FULL, SLIDING], ids=["full", "sliding"])
def test_parts_and_the_whole_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
):
    decoder = load(tmp_path / "m", config)
    in_parts, whole = decoder.new_state(), decoder.new_state()
    monkeypatch.setattr(whole, "moves", lambda length: False, raising=False)
    for length in (STEP - 2, 1, 1, 1, 30, 1):
        ids = list(range(length))
        one, other = (step(decoder, state, [i % 90 for i in ids]) for state in (in_parts, whole))
        assert mx.array_equal(one, other).item()
    assert all(mx.array_equal(a, b).item() for a, b in zip(in_parts.arrays(), whole.arrays(), strict=True))


@pytest.mark.parametrize("name", ["qwen3_5", "nemotron_h", "lfm2"])
def test_what_a_recurrent_layer_keeps_is_submitted_with_the_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Later it would still hold what it is the end of: the chunk's whole length, in each of the layers."""
    save_random_model(tmp_path / "m", CONFIGS[name], dtype=mx.float32)
    decoder, submitted = load_decoder(tmp_path / "m"), list[Any]()
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: submitted.extend(arrays))
    state = decoder.new_state()
    step(decoder, state, [5] * 70, paced=True)
    last = decoder.spec.layers[-1].memory
    kept = [layer for place, layer in enumerate(state.layers) if place != last]
    assert any(isinstance(layer, RecurrentState) for layer in kept)
    known = {id(array) for array in submitted}
    assert all(id(array) in known for layer in kept for array in layer.arrays())


# What a state says of itself ----------------------------------------------------------------


def tokens(count: int) -> tuple[mx.array, mx.array]:
    return mx.zeros((1, 1, count, 2)), mx.zeros((1, 1, count, 2))


@given(
    window=st.none() | st.integers(1, 600),
    lengths=st.lists(st.sampled_from([1, 1, 1, 2, 7, 255, 256, 257, 400]), max_size=12),
    back=st.integers(0, 3),
)
def test_a_state_moves_exactly_when_it_says_so(window: int | None, lengths: list[int], back: int):
    state = PlainState() if window is None else RotatingState(window)
    for length in lengths:
        before, said = state.keys, state.moves(length)
        state.append(*tokens(length))
        # In place, the buffer stays the same object; a first one copies nothing.
        assert said is (before is not None and state.keys is not before)
        if state.can_trim(back):
            state.trim(back)


def test_asking_changes_nothing():
    state = PlainState()
    state.append(*tokens(STEP))
    assert [state.moves(1), state.moves(1), state.moves(0), state.offset] == [True, True, False, STEP]
    assert not PlainState().moves(5000) and not RotatingState(8).moves(5000) and not ModelState([]).moves(1)
