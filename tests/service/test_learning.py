"""What an answer teaches, and a calibration: predictions become what was measured; trouble never shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import mlxone
from mlxone.core.errors import ContextOverflow
from mlxone.core.words import ChatRequest, Event, Failed, Finished, Progress, Stats
from mlxone.fitting.machine import Machine, this_machine
from mlxone.fitting.store import KINDS, Kind, Measurement
from mlxone.fitting.work import FEWEST_TOKENS
from mlxone.hub import places
from mlxone.service import fitting, here, learning
from mlxone.service.fitting import fit
from mlxone.service.here import learned_store
from mlxone.service.learning import SHORTEST_PROMPT, calibrate, note
from tests.engine import tiny
from tests.fitting.cases import GB, machine
from tests.service.rig import write_folder

LONG = {**tiny.PLAIN, "max_position_embeddings": 8192}
# A machine whose chip nobody knows, as every CPU is; and one with a known chip's speed.
UNKNOWN = machine(16 * GB)
STATS = Stats(prompt_tokens=2000, generated_tokens=48, prefill_tps=1000.0, decode_tps=50.0)
CONTEXT = 2048


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> mlxone.Model:
    return mlxone.load(write_folder(tmp_path_factory.mktemp("model") / "long", LONG))


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> mlxone.Model:
    config = {**LONG, "tie_word_embeddings": True}
    return mlxone.load(write_folder(tmp_path_factory.mktemp("model") / "tied", config))


def weights_and_states(model: mlxone.Model) -> int:
    """Of a tied model the table counts once. 2 layers of 2 heads hold 2048 tokens of 8 + 8 floats."""
    table, layer = 320 * 32, 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
    parameters = table * (1 if model.decoder.spec.tied_head else 2) + 2 * layer + 32
    return parameters * 4 + 2 * 2 * CONTEXT * 16 * 4


def stored(kind: Kind, where: Machine | None = None) -> list[Measurement]:
    with learned_store() as store:
        return store.measurements((where or this_machine(store)).key, kind)


def learned_anything() -> bool:
    return any(stored(kind) for kind in KINDS)


# In passing ----------------------------------------------------------------------------------


def test_an_answer_teaches_speed_and_memory(long: mlxone.Model):
    note(long, replace(STATS, peak_memory_bytes=weights_and_states(long) + 3_000_000))
    [speed], [memory] = stored("decode_tps"), stored("transient")
    assert (speed.measured, speed.model, memory.measured) == (50.0, "long", 3_000_000)
    assert memory.predicted > 0
    assert stored("prefill_tps") == []  # loading may be in it


def test_a_tied_table_counts_once(tied: mlxone.Model):
    note(tied, replace(STATS, peak_memory_bytes=weights_and_states(tied) + 3_000_000))
    assert [m.measured for m in stored("transient")] == [3_000_000]


def test_the_next_prediction_is_what_was_measured(long: mlxone.Model):
    plain = fit(long.path, CONTEXT)
    peak = weights_and_states(long) + round(plain.transient_bytes * 1.5)
    for speed in (40.0, 60.0, 50.0):
        note(long, replace(STATS, decode_tps=speed, peak_memory_bytes=peak))
    found = fit(long.path, CONTEXT)
    assert found.predicted_decode_tps == pytest.approx(50.0, rel=0.005)
    assert found.transient_bytes == pytest.approx(plain.transient_bytes * 1.5, rel=1e-3)


@pytest.mark.parametrize(
    "stats",
    [
        replace(STATS, generated_tokens=FEWEST_TOKENS - 1),
        replace(STATS, cached_tokens=1),
        replace(STATS, decode_tps=0.0, prompt_tokens=10),
        Stats(),
    ],
)
def test_what_teaches_nothing(long: mlxone.Model, stats: Stats):
    note(long, replace(stats, peak_memory_bytes=10**9))
    assert not learned_anything()


def test_a_short_prompt_says_nothing_of_transients(long: mlxone.Model):
    note(long, replace(STATS, prompt_tokens=SHORTEST_PROMPT - 1, peak_memory_bytes=10**9))
    assert stored("decode_tps") and not stored("transient")
    note(long, replace(STATS, prompt_tokens=SHORTEST_PROMPT, peak_memory_bytes=10**9))
    assert len(stored("transient")) == 1


def test_a_peak_below_weights_and_states_is_no_measurement(long: mlxone.Model):
    note(long, replace(STATS, peak_memory_bytes=1000))
    assert stored("decode_tps") and not stored("transient")


def test_a_real_answer(long: mlxone.Model):
    generation = mlxone.generate(
        long, list(range(1, 300)), max_tokens=FEWEST_TOKENS, eos_token_ids=(), temperature=0
    )
    list(generation)
    note(long, generation.stats)
    [measured] = stored("decode_tps")
    assert measured.measured == generation.stats.decode_tps > 0


def test_where_nothing_can_be_written_nothing_happens(long: mlxone.Model, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        os.environ["MLXONE_HOME"] = str(home)
        note(long, replace(STATS, peak_memory_bytes=10**9))
        assert not learned_anything()


def test_a_damaged_store_and_a_model_that_went_are_no_reason_to_fail(long: mlxone.Model, tmp_path: Path):
    file = places.home() / "learned.sqlite"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database at all" * 999)
    note(long, STATS)
    assert stored("decode_tps")
    note(replace(long, path=tmp_path / "gone"), STATS)
    assert len(stored("decode_tps")) == 1


# On purpose ----------------------------------------------------------------------------------


@pytest.fixture
def somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """One and the same machine for all who ask, with the speed that was noted in the store."""
    from mlxone.fitting.machine import _with_measured_speed

    for module in (learning, fitting, here):
        monkeypatch.setattr(
            module, "this_machine", lambda store, asked=None: _with_measured_speed(store, UNKNOWN)
        )


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Stats]:
    """The rounds' results, written down beforehand; of them the first brings the weights in."""
    script: list[Stats] = []

    def answer(model: mlxone.Model, request: ChatRequest) -> Iterator[Event]:
        assert request.ids is not None
        assert (len(request.ids), request.max_tokens) == (learning.PROMPT, learning.TOKENS)
        assert request.eos_token_ids == () and max(request.ids) < model.vocab_size
        yield Progress(1, 1)
        yield Finished(script.pop(0))

    monkeypatch.setattr(learning, "answer", answer)
    return script


def round_of(decode: float, prefill: float, peak: int) -> Stats:
    return Stats(
        prompt_tokens=learning.PROMPT, generated_tokens=learning.TOKENS, decode_tps=decode,
        prefill_tps=prefill, peak_memory_bytes=peak,
    )  # fmt: skip


def script_of(model: mlxone.Model, transients: Sequence[int]) -> list[Stats]:
    held = weights_and_states(model) + 2 * 2 * 256 * 16 * 4  # 2096 tokens take one step of 256 more
    speeds = [(1.0, 1.0), (100.0, 900.0), (200.0, 700.0), (300.0, 500.0)]
    return [round_of(*speed, held + t) for speed, t in zip(speeds, transients, strict=True)]


@pytest.mark.usefixtures("somewhere")
def test_a_calibration_makes_predictions_what_it_measured(long: mlxone.Model, rounds: list[Stats]):
    context = learning.PROMPT + learning.TOKENS
    plain = fit(long.path, context)
    assert plain.predicted_decode_tps is None
    one = plain.transient_bytes
    rounds += script_of(long, [99 * one, one * 2, one * 4, one * 3])
    told: list[tuple[int, int]] = []
    learned = calibrate(long, lambda done, total: told.append((done, total)))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)] and rounds == []
    assert (learned.decode_tps, learned.prefill_tps) == (200.0, 700.0)
    assert (learned.transient_bytes, learned.context_tokens) == (3 * one, context)
    found = fit(long.path, context)
    assert found.predicted_decode_tps == pytest.approx(200.0, rel=0.005)
    assert found.predicted_prefill_tps == pytest.approx(700.0, rel=0.005)
    assert found.transient_bytes == 3 * one
    # The speed of one machine, not of one context: more states are slower to read.
    later = fit(long.path, 8192).predicted_decode_tps
    assert later is not None and later < 200.0


@pytest.mark.usefixtures("somewhere")
def test_a_calibration_forgets_what_was_learned_before(long: mlxone.Model, rounds: list[Stats]):
    with learned_store() as store:
        for kind in KINDS:
            store.add_measurement(Measurement(kind, UNKNOWN.key, "old", 1.0, 3.9))
        store.add_measurement(Measurement("decode_tps", "elsewhere", "old", 1.0, 3.9))
    rounds += script_of(long, [10**6] * 4)
    calibrate(long)
    for kind in KINDS:
        assert {m.model for m in stored(kind, UNKNOWN)} == {"long"}
        assert len(stored(kind, UNKNOWN)) == learning.ROUNDS
    with learned_store() as store:
        assert len(store.measurements("elsewhere", "decode_tps")) == 1
    rounds += [replace(s, decode_tps=s.decode_tps * 10) for s in script_of(long, [10**6] * 4)]
    calibrate(long)
    found = fit(long.path, learning.PROMPT + learning.TOKENS)
    assert found.predicted_decode_tps == pytest.approx(2000.0, rel=0.005)


@pytest.mark.usefixtures("somewhere")
def test_a_failed_calibration_says_why_and_keeps_what_is_known(long: mlxone.Model, monkeypatch):
    note(long, STATS)
    error = ContextOverflow("too long")
    monkeypatch.setattr(learning, "answer", lambda model, request: iter([Failed(error)]))
    with pytest.raises(ContextOverflow, match="too long"):
        calibrate(long)
    assert len(stored("decode_tps", UNKNOWN)) == 1


def test_a_known_chips_speed_is_corrected_and_not_replaced(
    long: mlxone.Model, rounds: list[Stats], monkeypatch
):
    from mlxone.fitting.chips import APPLE
    from mlxone.fitting.machine import as_sold

    mac = as_sold(APPLE[-1], 64)
    for module in (learning, fitting):
        monkeypatch.setattr(module, "this_machine", lambda store, asked=None: mac)
    monkeypatch.setattr(fitting, "weight_rule", lambda machine: lambda wide_bytes: long.decoder.form)
    context = learning.PROMPT + learning.TOKENS
    plain = fit(long.path, context).predicted_decode_tps
    assert plain is not None
    rounds += [round_of(plain * factor, 1e6, 10**9) for factor in (9.0, 0.5, 0.7, 0.6)]
    calibrate(long)
    assert fit(long.path, context).predicted_decode_tps == pytest.approx(plain * 0.6, rel=0.01)
    with learned_store() as store:
        assert store.get(f"speed {mac.key}") is None


@pytest.mark.parametrize("length", [512, 60])
def test_a_model_of_any_context_can_be_calibrated(tmp_path: Path, monkeypatch, length: int):
    """With real arithmetic, and shorter."""
    monkeypatch.setattr(learning, "ROUNDS", 1)
    model = mlxone.load(write_folder(tmp_path / "m", {**tiny.PLAIN, "max_position_embeddings": length}))
    learned = calibrate(model)
    assert learned.decode_tps > 0 and learned.prefill_tps > 0 and learned.context_tokens <= length
    assert [m.measured for m in stored("decode_tps")] == [learned.decode_tps]


def test_a_real_calibration(long: mlxone.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning, "PROMPT", SHORTEST_PROMPT)
    monkeypatch.setattr(learning, "TOKENS", 4)
    learned = calibrate(long)
    assert learned.context_tokens == SHORTEST_PROMPT + 4
    for kind, middle in (("decode_tps", learned.decode_tps), ("prefill_tps", learned.prefill_tps)):
        assert sorted(m.measured for m in stored(kind))[learning.ROUNDS // 2] == middle  # type: ignore[arg-type]
    assert fit(long.path, learned.context_tokens).predicted_decode_tps is not None
