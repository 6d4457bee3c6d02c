"""A server that has answered thousands holds what it held after hundreds. `make soak` runs the long forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.serving import LONG_CONFIG, Program
from tests.e2e.soak import ask_many, held
from tests.service.rig import write_folder

# Weights enough that a few states more or less, not yet collected, are no three percent.
CONFIG = {**LONG_CONFIG, "hidden_size": 256, "intermediate_size": 1024}
# The prompt cache is full before the first look, so that it cannot be what grows.
CACHE = ("--prompt-cache-bytes", "2000000", "--prompt-cache-size", "20")


@pytest.mark.parametrize(
    ("warming", "count"),
    [(100, 200), pytest.param(1_000, 2_000, marks=pytest.mark.long)],
    ids=["short", "long"],
)
def test_memory_stays_flat_and_no_row_is_left(tmp_path: Path, warming: int, count: int):
    model = write_folder(tmp_path / "tiny", CONFIG)
    with Program(tmp_path / "home", model, *CACHE, "--log-level", "warn") as server:
        assert ask_many(server, warming) == warming
        before, full = held(server), server.stats()["prompt_cache"]["entries"]
        assert ask_many(server, count, start=warming) == count
        after = held(server)
        assert after.rows == (0, 0)
        assert full == server.stats()["prompt_cache"]["entries"] == 20
        assert after.resident == pytest.approx(before.resident, rel=0.03)
        assert after.active == pytest.approx(before.active, rel=0.03)
        totals = server.stats()["totals"]
        assert totals["failed"] == 0 and totals["answers"] >= (warming + count) // 2
        assert server.end() == 0
        assert server.log == []  # nothing went wrong on the way
