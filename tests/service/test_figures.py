"""Counting: every answer once, and what "of late" means."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import TimedOut
from mlxone.core.words import Event, Failed, Finished, Stats
from mlxone.service.figures import LATE, Tally, Totals

ENDS: list[Event | None] = [Finished(Stats()), Failed(TimedOut("slow")), None]


@given(st.lists(st.sampled_from(ENDS), max_size=20), st.integers(0, 5))
def test_every_end_is_counted_once(ends: list[Event | None], refused: int):
    tally = Tally()
    for end in ends:
        tally.ended(end)
    for _ in range(refused):
        tally.refused()
    answers, failed, cancelled = (ends.count(end) for end in ENDS)
    assert tally.totals == Totals(answers, failed, cancelled, refused)


def test_work_adds_up_and_the_speed_is_that_of_late():
    tally = Tally()
    assert (tally.decode_tps, tally.seconds_per_answer) == (0.0, 1.0)
    slow, fast = Stats(100, 40, 11, 500.0, 1000.0), Stats(10, 0, 11, 0.0, 100.0)
    tally.worked(slow)
    assert tally.decode_tps == pytest.approx(10.0) and tally.seconds_per_answer == pytest.approx(1.5)
    for _ in range(LATE):
        tally.worked(fast)
    assert tally.decode_tps == pytest.approx(100.0) and tally.seconds_per_answer == pytest.approx(0.1)
    tally.worked(replace(fast, cache_tokens=tuple(range(1_000))))
    assert all(stats.cache_tokens == () for stats in tally._late)
    totals = tally.totals
    assert (totals.prompt_tokens, totals.cached_tokens, totals.generated_tokens) == (190, 40, 110)
    assert totals.prefill_seconds == pytest.approx(0.5) and totals.decode_seconds == pytest.approx(1.9)
    assert [f.name for f in fields(Totals)][:4] == ["answers", "failed", "cancelled", "refused"]
