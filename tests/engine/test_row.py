"""A row: what is one request's own, from its prompt's tokens to the number of its draws."""

from __future__ import annotations

import pytest

from mlxone.backend.arrays import mx
from mlxone.core.words import Sampling
from mlxone.engine.row import Drawn, Pending, Row
from mlxone.engine.sample import make_draw
from mlxone.kv.plain import PlainState
from mlxone.kv.state import ModelState
from tests.engine.tiny import VOCAB, ScriptedDecoder


def row_for(ids: list[int], held: int = 0, logprobs: int | None = None, **sampling: float) -> Row:
    decoder = ScriptedDecoder([1])
    state = decoder.new_state()
    if held:
        decoder.hidden(mx.array([ids[:held]]), state)
    return Row(decoder, ids, state, Sampling(**sampling), seed=3, logprobs=logprobs)  # type: ignore[arg-type]


def test_each_draw_is_the_next_step_of_the_seed():
    row, logits = row_for([1, 2], temperature=1.0), mx.zeros(VOCAB)
    drawn = [row.choose(logits).read().token for _ in range(12)]
    draw = make_draw(Sampling(temperature=1.0), 3)
    assert drawn == [draw(logits, step).item() for step in range(12)]
    assert len(set(drawn)) > 8


@pytest.mark.parametrize("held", [0, 1, 2])
def test_what_is_held_already_is_not_read_again(held: int):
    row = row_for([7, 8, 9], held)
    assert (row.fed, row.unread) == ([7, 8, 9][:held], [7, 8, 9][held:])


@pytest.mark.parametrize("held", [0, 2])
def test_penalties_count_the_whole_prompt_and_every_draw(held: int):
    """From its last token on, and the part that a state holds already as well."""
    row = row_for([5, 6, 7], held, presence_penalty=20.0)
    logits = mx.where(
        mx.arange(VOCAB) < 5, 0.0, mx.where(mx.arange(VOCAB) < 10, 20.0 - mx.arange(VOCAB), -9.0)
    )
    assert [row.choose(logits).read().token for _ in range(3)] == [8, 9, 0]


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [(None, (None, ())), (0, (-0.6931, ())), (1, (-0.6931, ((4, -0.6931),)))],
)
def test_logprobs_as_many_as_asked_for(
    logprobs: int | None, expected: tuple[float, tuple[tuple[int, float]]]
):
    row = row_for([1], logprobs=logprobs)
    logits = mx.where((mx.arange(VOCAB) == 4) | (mx.arange(VOCAB) == 6), 50.0, 0.0)
    drawn = row.choose(logits).read()
    assert isinstance(drawn, Drawn)
    assert drawn.token == 4
    assert (drawn.logprob and round(drawn.logprob, 4)) == expected[0]
    assert tuple((id, round(x, 4)) for id, x in drawn.top) == expected[1]


def test_a_pending_token_can_be_read_twice():
    pending = Pending(mx.array(5))
    assert pending.read() == pending.read() == Drawn(5)


class Recorder:
    """Stands for MLX: which arrays were submitted and which were waited for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, int]] = []
        monkeypatch.setattr(mx, "async_eval", lambda *arrays: self.note("submitted", *arrays))
        monkeypatch.setattr(mx, "eval", lambda *arrays: self.note("waited for", *arrays))

    def note(self, what: str, *arrays: mx.array) -> None:
        self.log += [(what, id(array)) for array in arrays]


def test_a_step_waits_for_the_end_of_the_one_before(monkeypatch: pytest.MonkeyPatch):
    row = Row(ScriptedDecoder([1]), [1, 2], ModelState([PlainState()]), Sampling(), seed=0)
    first, second, third = mx.array(1), mx.array(2), mx.array(3)
    recorder = Recorder(monkeypatch)
    for near_end in (first, second, third):
        row.follow(near_end)
    assert recorder.log == [
        ("submitted", id(first)),
        ("waited for", id(first)), ("submitted", id(second)),
        ("waited for", id(second)), ("submitted", id(third)),
    ]  # fmt: skip
