"""What measurements make of predictions: the middle of the last ones, within bounds, for one machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.fitting import learned
from mlxone.fitting.learned import ENOUGH, HIGHEST, LAST, LOWEST, learn
from mlxone.fitting.machine import Machine
from mlxone.fitting.report import Corrections
from mlxone.fitting.store import KINDS, Kind, Measurement, Store
from tests.fitting.cases import GB, machine

HERE, THERE = machine(16 * GB), machine(32 * GB)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "learned.sqlite")) as made:
        yield made


MODEL = "org/m"


def measured(
    store: Store, kind: Kind, *ratios: float, predicted: float = 100.0, on=HERE, of: str = MODEL
) -> None:
    for ratio in ratios:
        learn(store, Measurement(kind, on.key, of, predicted, predicted * ratio))


def corrections(store: Store, machine: Machine, model: str = MODEL) -> Corrections:
    return learned.corrections(store, machine, model)


def test_nothing_measured_corrects_nothing(store: Store):
    assert corrections(store, HERE) == Corrections(1.0, 1.0, 1.0)


def test_each_kind_corrects_its_own(store: Store):
    measured(store, "transient", 1.25)
    measured(store, "decode_tps", 0.5)
    measured(store, "prefill_tps", 2.0)
    assert corrections(store, HERE) == Corrections(transient=1.25, decode=0.5, prefill=2.0)


def test_one_odd_run_says_little(store: Store):
    measured(store, "decode_tps", 0.9, 0.001, 0.8, 50.0, 0.85)
    assert corrections(store, HERE).decode == pytest.approx(0.85)


def test_the_last_ones_count(store: Store):
    measured(store, "decode_tps", *[3.0] * LAST, *[0.5] * LAST)
    assert corrections(store, HERE).decode == 0.5
    measured(store, "decode_tps", *[2.0] * (LAST // 2))
    assert corrections(store, HERE).decode == 0.5
    measured(store, "decode_tps", 2.0)
    assert corrections(store, HERE).decode == 2.0


def test_nonsense_stays_within_bounds(store: Store):
    measured(store, "transient", 1e9)
    measured(store, "decode_tps", 1e-9)
    found = corrections(store, HERE)
    assert (found.transient, found.decode) == (HIGHEST, LOWEST)
    assert LOWEST < 1 < HIGHEST


def test_another_machine_teaches_nothing_here(store: Store):
    measured(store, "decode_tps", 0.5, on=THERE)
    assert corrections(store, HERE) == Corrections()
    assert corrections(store, THERE).decode == 0.5


def test_forgetting_one_machine(store: Store):
    for kind in KINDS:
        measured(store, kind, 0.5)
    measured(store, "decode_tps", 2.0, on=THERE)
    store.forget(HERE.key)
    assert corrections(store, HERE) == Corrections()
    assert corrections(store, THERE).decode == 2.0
    store.forget("never seen")
    measured(store, "decode_tps", 0.25)
    assert corrections(store, HERE).decode == 0.25


def test_forgotten_for_good(tmp_path: Path):
    path = tmp_path / "learned.sqlite"
    with closing(Store(path)) as one:
        measured(one, "decode_tps", 0.5)
        one.put("speed", {"bandwidth": 1})
        one.forget(HERE.key)
    with closing(Store(path)) as other:
        assert corrections(other, HERE) == Corrections()
        assert other.get("speed") == {"bandwidth": 1}  # facts are no measurements


@pytest.mark.parametrize(
    ("predicted", "seen"), [(0, 5), (5, 0), (-1, 5), (5, -1), (float("nan"), 5), (5, float("inf"))]
)
def test_what_is_no_comparison_is_not_kept(store: Store, predicted: float, seen: float):
    learn(store, Measurement("transient", HERE.key, "org/m", predicted, seen))
    assert store.measurements(HERE.key, "transient") == []


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=LAST), st.randoms())
def test_the_middle_whatever_the_order(ratios: list[float], random):
    shuffled = random.sample(ratios, len(ratios))
    found = []
    for order in (ratios, shuffled):
        store = Store(Path("/dev/null/nowhere"))  # cannot be written: it works in memory
        with closing(store):
            measured(store, "decode_tps", *order, predicted=1.0)
            found.append(corrections(store, HERE).decode)
    assert found[0] == found[1]
    at_least = sum(min(HIGHEST, max(LOWEST, r)) >= found[0] for r in ratios)
    at_most = sum(min(HIGHEST, max(LOWEST, r)) <= found[0] for r in ratios)
    assert 2 * at_least >= len(ratios) - 1 and 2 * at_most >= len(ratios)


def test_one_model_says_little_of_another(store: Store):
    measured(store, "decode_tps", *[0.5] * (ENOUGH - 1), of="org/small")
    assert corrections(store, HERE).decode == 1.0
    measured(store, "decode_tps", 0.5, of="org/other")
    assert corrections(store, HERE).decode == 0.5
    measured(store, "decode_tps", 2.0)  # its own word counts more than any number of others'
    assert corrections(store, HERE).decode == 2.0


def test_no_memory_is_promised_away_for_what_was_seen_once(store: Store):
    measured(store, "transient", 0.3)
    assert corrections(store, HERE).transient == 1.0
    measured(store, "transient", 1.5, 1.5)
    assert corrections(store, HERE).transient == 1.5
