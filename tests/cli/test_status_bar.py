from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.process_load import Load
from mlxone.cli.status_bar import Colours, bar_text
from mlxone.cli.table import display_width
from mlxone.server.counters import Counters
from mlxone.service.figures import AdmissionFigures, CacheFigures, Figures, MemoryFigures

URL = "http://127.0.0.1:8090"
FIGURES = Figures(
    owner="serve",
    model="org/Model-4bit",
    started_at=0.0,
    running=2,
    waiting=1,
    prompt_cache=CacheFigures(bytes=120_000_000, max_bytes=2_000_000_000, hits=3, misses=1),
    admission=AdmissionFigures(usable_bytes=5_100_000_000),
    memory=MemoryFigures(active_bytes=540_000_000),
    decode_tps=41.26,
)
LOAD = Load(cpu=180.4, resident_bytes=1_234_000_000, gpu=34)


def counters(total: int) -> Counters:
    made = Counters()
    made.requests = Counter({("/chat/completions", 200): total})
    return made


def test_with_room_enough_everything_is_there():
    assert bar_text(URL, FIGURES, counters(1234), LOAD, 200).split("\n") == [
        "2 running, 1 waiting · 41.3 tok/s · 1,234 requests · org/Model-4bit · http://127.0.0.1:8090",
        "memory 0.54 of 5.1 GB · prompts 0.12 of 2.0 GB (75 % hits) · process 1.2 GB · CPU 180 % · GPU 34 %",
    ]


def test_what_is_not_known_or_off_is_left_out():
    idle = Figures(owner="serve", model=None, started_at=0.0)
    assert bar_text(URL, idle, counters(0), Load(), 200).split("\n") == [
        "0 running · 0 requests · http://127.0.0.1:8090",
        "memory 0 B",
    ]


def test_weights_that_wait_on_the_disk_are_counted():
    waiting = AdmissionFigures(usable_bytes=5_100_000_000, weights_bytes=700_000_000)
    text = bar_text(URL, replace(FIGURES, admission=waiting), counters(0), LOAD, 200)
    assert "memory 0.70 of 5.1 GB" in text


@pytest.mark.parametrize(
    ("width", "first", "second"),
    [
        (80, "2 running, 1 waiting · 41.3 tok/s · 1,234 requests · http://127.0.0.1:8090",
         "memory 0.54 of 5.1 GB · process 1.2 GB · CPU 180 % · GPU 34 %"),
        (60, "2 running, 1 waiting · 41.3 tok/s · 1,234 requests",
         "memory 0.54 of 5.1 GB · CPU 180 % · GPU 34 %"),
        (40, "2 running, 1 waiting · 41.3 tok/s", "memory 0.54 of 5.1 GB · CPU 180 %"),
        (24, "2 running, 1 waiting", "memory 0.54 of 5.1 GB"),
    ],
)  # fmt: skip
def test_narrower_the_least_goes_first(width: int, first: str, second: str):
    assert bar_text(URL, FIGURES, counters(1234), LOAD, width).split("\n") == [first, second]


numbers = st.integers(0, 10**13)


@given(
    st.builds(
        Figures,
        owner=st.just("serve"),
        model=st.none() | st.text(min_size=1),
        started_at=st.just(0.0),
        running=numbers,
        waiting=numbers,
        prompt_cache=st.builds(
            CacheFigures, bytes=numbers, max_bytes=numbers, hits=numbers, misses=numbers
        ),
        admission=st.builds(AdmissionFigures, usable_bytes=numbers),
        memory=st.builds(MemoryFigures, active_bytes=numbers),
        decode_tps=st.floats(0, 1e6),
    ),
    st.builds(
        Load,
        cpu=st.none() | st.floats(0, 1e5),
        resident_bytes=st.none() | numbers,
        gpu=st.none() | st.integers(0, 100),
    ),
    numbers,
    st.integers(19, 250),
)  # fmt: skip
def test_two_lines_never_wider_than_the_terminal(figures: Figures, load: Load, total: int, width: int):
    lines = bar_text(URL, figures, counters(total), load, width).split("\n")
    assert len(lines) == 2
    assert all(display_width(line) <= width for line in lines)
    assert not [letter for line in lines for letter in line if unicodedata.category(letter) == "Cc"]


def test_colours_change_no_letter(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = bar_text(URL, FIGURES, counters(1), LOAD, 200)
    lines = Colours()(text)
    assert "\x1b[" in lines[0].text
    assert "\n".join(re.sub(r"\x1b\[[\d;]*m", "", line.text) for line in lines) == text
    assert [line.cells for line in lines] == [display_width(line) for line in text.split("\n")]
