"""What stands at the bottom of the terminal, in every width; and the lines that say the same in a log."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mlxone.cli.table import display_width
from mlxone.cli.train_panel import panel, report, text_of, validated
from mlxone.cli.train_progress import Progress


def run(steps: int | None = 600, done: int = 120, *, every: int = 50) -> Progress:
    progress = Progress(steps=steps)
    for step in range(1, done + 1):
        row = {
            "step": step,
            "train_loss": 3 / step,
            "lr": 1e-4,
            "tokens_per_s": 2310.4,
            "peak_memory": 1.25e9,
        }
        progress.row(row)
        if step % every == 0:
            progress.row({"step": step, "valid_loss": 4 / step})
    progress.eta_s, progress.saved = 250.0, 100
    return progress


def shown(progress: Progress, width: int = 79, rows: int = 24) -> list[str]:
    return [text_of(row) for row in panel(progress, width, rows)]


def test_all_that_is_wanted_is_there():
    lines = shown(run())
    assert lines[0].startswith("step 120/600 ━") and lines[0].endswith("20 % · 4 min left")
    assert lines[1] == "loss 0.0250 · valid 0.0400 · best 0.0400 at step 100 · lr 1.00e-04"
    assert lines[2] == "2,310 tok/s · memory 1.2 GB · saved at step 100"
    assert len(lines) == 3 + 8


@given(st.integers(19, 200), st.integers(4, 60), st.sampled_from([0, 1, 2, 120, 600]))
def test_it_keeps_to_its_place(width, rows, done):
    lines = shown(run(done=done), width, rows)
    assert 0 < len(lines) < rows
    assert all(display_width(line) <= width for line in lines)
    assert lines[0].startswith(f"step {done}/600")


def test_numbers_are_never_cut():
    for width in range(20, 90):
        for line in shown(run(), width)[:3]:
            assert "…" not in line
    assert shown(run(), 24)[1] == "loss 0.0250"


def test_a_short_terminal_has_no_curve():
    assert len(shown(run(), rows=9)) == 3
    assert len(shown(run(), rows=10)) == 3 + 3
    assert len(shown(run(), rows=100)) == 3 + 8


def test_the_bar_is_as_long_as_the_run_is_far():
    halves = shown(run(done=300))[0]
    assert abs(halves.count("━") - halves.count("─")) <= 1
    assert "─" not in shown(run(done=600))[0]


def test_a_run_of_unknown_length():
    assert shown(run(steps=None))[0] == "step 120 · 4 min left"


def test_how_it_ended():
    for state, words in (("done", "done"), ("asked", "stopped"), ("nan", "broke down")):
        progress = run()
        progress.state, progress.eta_s = state, None
        assert shown(progress)[0].endswith(words)


def test_preferences_say_more():
    progress = run()
    progress.extras = {"accuracy": 0.75, "margin": 1.5, "chosen_logp": -3.0}
    assert "accuracy 0.75 · margin 1.5" in shown(progress)[1]


def test_the_curves_colours_are_those_of_the_words():
    kinds = {text: kind for row in panel(run(), 79, 24) for text, kind in row}
    assert (kinds["loss"], kinds["valid"], kinds["lr"]) == ("train", "valid", "axis")
    assert {"train", "valid"} <= {kind for row in panel(run(), 79, 24)[3:] for _, kind in row}


def test_lines_for_a_log():
    assert report(run()) == "step 120/600: loss 0.0250, lr 1.00e-04, 2,310 tok/s, memory 1.2 GB, 4 min left"
    first = Progress()
    first.row({"step": 0, "valid_loss": 3.0})
    assert validated(first) == "step 0: valid loss 3.0000"
    progress = run(done=100)
    assert validated(progress) == "step 100/600: valid loss 0.0400 (the best so far)"
    progress.row({"step": 101, "valid_loss": 1.0})
    assert validated(progress) == "step 101/600: valid loss 1.0000"
    progress.row({"step": 102, "train_loss": math.nan})
    assert "loss not a number" in report(progress)
    assert validated(Progress()) == "" and report(Progress()) == "step 0: "
