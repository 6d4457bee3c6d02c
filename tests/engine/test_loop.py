"""The loop: mlx-lm's tokens, and at every way out of it `row.fed` is exactly what the states hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.utils import load_model as mlx_lm_load

from mlxone.backend.arrays import mx, on_stream
from mlxone.core.words import Progress, Sampling
from mlxone.engine import loop, row
from mlxone.engine.loop import decode, prefill
from mlxone.engine.row import Pending, Row
from mlxone.engine.sample import logprobs_of
from mlxone.kv.state import ModelState
from mlxone.models.decoder import Decoder
from mlxone.models.loading import load_decoder
from tests.engine.tiny import VOCAB, ScriptedDecoder, generate, ids_in

PROMPT = [(7 * i * i + 3 * i + 5) % VOCAB for i in range(23)]
SCRIPT = [11, 12, 13, 14, 15, 16, 17]


@pytest.fixture(params=["plain", "sliding"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_folder")
    return found


def mlx_lm_tokens(folder: Path, count: int, step: int = 2048, **penalties: Any) -> list[int]:
    model, _ = mlx_lm_load(folder)
    steps = generate_step(
        mx.array(PROMPT), model, max_tokens=count, prefill_step_size=step,
        logits_processors=make_logits_processors(**penalties),
    )  # fmt: skip
    return [int(token) for token, _ in steps]


def test_rows_with_decoders_of_their_own_go_in_turns():
    """Each is computed by what it carries, whoever was computed before it."""
    scripts = ([11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34])
    rows = []
    for script in scripts:
        decoder = ScriptedDecoder(script)
        rows.append(Row(decoder, [1, 2, 3], decoder.new_state(), Sampling(), seed=0))
    for one in rows:
        list(prefill(one, 2))
    running = [decode(one, 4) for one in rows]
    drawn = [[next(steps).token for steps in running] for _ in range(4)]
    assert [list(column) for column in zip(*drawn, strict=True)] == [list(script) for script in scripts]
    assert len({len(one.decoder.log) for one in rows}) == 1  # type: ignore[attr-defined]


# Real models -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 11, 22, 2048])
def test_greedy_tokens_are_those_of_mlx_lm(folder: Path, step: int):
    drawn, _ = generate(load_decoder(folder), PROMPT, 24, step=step)
    tokens = [one.token for one in drawn]
    assert tokens == mlx_lm_tokens(folder, 24, step)
    assert len(set(tokens)) > 4  # no model that says one thing for ever


@pytest.mark.parametrize(
    "penalties",
    [
        {"repetition_penalty": 1.7, "repetition_context_size": 3},
        {"presence_penalty": 4.0, "presence_context_size": 0},
        {"frequency_penalty": 1.5, "frequency_context_size": 40},
        {"logit_bias": {5: 3.5, 6: 3.0}, "repetition_penalty": 2.0},
    ],
)
def test_penalties_see_the_token_that_is_not_read_yet(plain_folder: Path, penalties: dict[str, Any]):
    drawn, _ = generate(load_decoder(plain_folder), PROMPT, 24, sampling=Sampling(**penalties))
    assert [one.token for one in drawn] == mlx_lm_tokens(plain_folder, 24, **penalties)
    free, _ = generate(load_decoder(plain_folder), PROMPT, 24)
    assert [one.token for one in drawn] != [one.token for one in free]


@pytest.mark.parametrize("stop_after", [1, 4, 9])
@pytest.mark.parametrize("prompt", [PROMPT, PROMPT[:1]])
def test_a_left_state_goes_on_like_a_cold_run(folder: Path, prompt: list[int], stop_after: int):
    decoder = load_decoder(folder)
    _, row = generate(decoder, prompt, 10, step=5, stop_after=stop_after)
    following = [3, 1, 4]
    continued = last_logits(decoder, following, row.state)
    cold = last_logits(decoder, row.fed + following, decoder.new_state())
    assert mx.allclose(continued, cold, rtol=1e-4, atol=1e-4)
    # One token off would be seen.
    assert not mx.allclose(continued, last_logits(decoder, row.fed[1:] + following, decoder.new_state()))


def last_logits(decoder: Decoder, ids: Sequence[int], state: ModelState) -> mx.array:
    with on_stream():
        logits = decoder.logits(decoder.hidden(mx.array([list(ids)]), state))[0, -1]
        mx.eval(logits)
    return logits


def test_the_same_seed_gives_the_same_tokens(plain_folder: Path):
    decoder = load_decoder(plain_folder)
    sampling = Sampling(temperature=1.0, seed=3)
    runs = [[d.token for d in generate(decoder, PROMPT, 12, step=s, sampling=sampling)[0]] for s in (2048, 3)]
    assert runs[0] == runs[1]
    other, _ = generate(decoder, PROMPT, 12, sampling=Sampling(temperature=1.0, seed=4))
    assert [one.token for one in other] != runs[0]


def test_logprobs_are_those_of_the_plain_forward_pass(plain_folder: Path):
    decoder = load_decoder(plain_folder)
    bias = {PROMPT[0]: 2.5}
    drawn, _ = generate(decoder, PROMPT, 5, logprobs=3, sampling=Sampling(logit_bias=bias))
    ids = list(PROMPT)
    for one in drawn:
        logits = last_logits(decoder, ids, decoder.new_state()).at[mx.array([PROMPT[0]])].add(2.5)
        logprobs = logits - mx.logsumexp(logits)
        best = mx.argsort(-logprobs)[:3].tolist()
        assert [id for id, _ in one.top] == best
        assert one.token == best[0]
        assert one.logprob == one.top[0][1]
        for id, logprob in one.top:
            assert abs(logprob - logprobs[id].item()) < 1e-4
        ids.append(one.token)


# What the states hold ----------------------------------------------------------------------

# Full attention can forget; a full ring cannot, and then the token in flight stays.
MEMORIES = {"plain": (None, None), "roomy ring": (None, 60), "full ring": (6, None), "full rings": (6, 6)}


def assert_fed(row: Row, windows: Sequence[int | None]) -> None:
    for layer, window in zip(row.state.layers, windows, strict=True):
        assert layer.offset == len(row.fed)
        assert ids_in(layer) == (row.fed if window is None else row.fed[-window + 1 :])


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("prompt", [[5], [5, 6], list(range(20, 33))])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_fed_after_every_way_out(memory: str, prompt: list[int], count: int):
    windows = MEMORIES[memory]
    for stop_after in (*range(1, count + 1), None):
        decoder = ScriptedDecoder(SCRIPT, windows=windows)
        drawn, row = generate(decoder, prompt, count, step=4, stop_after=stop_after)
        assert [one.token for one in drawn] == SCRIPT[: stop_after or count]
        kept = [*prompt, *SCRIPT[: len(drawn) - 1]]
        in_flight = 1 < (stop_after or count) < count  # the first token is read before more is submitted
        forgets = all(w is None or len(kept) + 1 < w for w in windows)
        # What was in flight is taken back; where that cannot be, the last drawn token is in.
        assert row.fed == (kept if forgets or not in_flight else [*kept, drawn[-1].token])
        assert_fed(row, windows)


@pytest.mark.parametrize("held", [0, 1, 3, 6])
def test_fed_with_a_state_that_holds_the_prompts_beginning(held: int):
    prompt, decoder = list(range(40, 47)), ScriptedDecoder(SCRIPT)
    state = decoder.new_state()
    if held:
        decoder.hidden(mx.array([prompt[:held]]), state)
    decoder.log.clear()
    _, row = generate(decoder, prompt, 3, state=state, step=2)
    assert row.fed == prompt + SCRIPT[:2]
    assert_fed(row, (None, None))
    read = sum(length for _, length in decoder.log)
    assert read == len(prompt) - held + 2  # nothing was read twice


def test_a_loop_that_is_never_begun_changes_nothing():
    decoder = ScriptedDecoder(SCRIPT)
    row = Row(decoder, [1, 2, 3], decoder.new_state(), Sampling(), seed=0)
    prefill(row, 2).close()
    decode(row, 5).close()
    assert row.fed == decoder.log == []
    assert row.state.offset == 0


class Broken(Exception):
    pass


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("passes", range(6))
def test_fed_after_a_pass_that_broke_off(passes: int, layer: int):
    """Layers before the break took the chunk in, the others did not: all go back to what is fed."""
    decoder, prompt = ScriptedDecoder(SCRIPT, windows=(None, 60)), [1, 2, 3, 4, 5]

    def before(index: int) -> None:
        if len(decoder.log) > passes and index == layer:
            raise Broken

    decoder.before_layer = before
    row = Row(decoder, prompt, decoder.new_state(), Sampling(), seed=0)
    drawn: list[int] = []

    def run() -> None:
        list(prefill(row, 2))
        drawn.extend(one.token for one in decode(row, 9))

    with pytest.raises(Broken):
        run()
    # Two chunks, the last token, which is read at once, then one a pass and one of them unread.
    assert drawn == SCRIPT[: {3: 1}.get(passes, max(0, passes - 3))]
    assert row.fed == (prompt + SCRIPT)[: [0, 2, 4, 5, 6, 7][passes]]
    assert_fed(row, (None, 60))


def test_a_pass_that_broke_off_and_cannot_be_mended_leaves_nothing():
    """The ring took the token in, the layer behind it did not, and the ring does not go back."""
    decoder, prompt = ScriptedDecoder(SCRIPT, windows=(4, None)), list(range(9))

    def before(index: int) -> None:
        if decoder.drawn == 2 and index == 1:
            raise Broken

    decoder.before_layer = before
    row = Row(decoder, prompt, decoder.new_state(), Sampling(), seed=0)
    list(prefill(row, 4))
    with pytest.raises(Broken):
        list(decode(row, 9))
    assert row.fed == []
    assert_fed(row, (4, None))
    decoder.before_layer = lambda index: None
    _, again = generate(decoder, prompt, 2, state=row.state)
    assert_fed(again, (4, None))


@pytest.mark.parametrize("memory", ["plain", "full ring"])
@pytest.mark.parametrize("reads", [0, 1, 3])
def test_fed_after_ctrl_c_while_a_token_is_read(monkeypatch: pytest.MonkeyPatch, memory: str, reads: int):
    windows = MEMORIES[memory]
    decoder, read, left = ScriptedDecoder(SCRIPT, windows=windows), Pending.read, [reads]

    def interrupted(pending: Pending) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        return read(pending)

    monkeypatch.setattr(Pending, "read", interrupted)
    row = Row(decoder, list(range(9)), decoder.new_state(), Sampling(), seed=0)
    for _ in prefill(row, 4):
        pass
    with pytest.raises(KeyboardInterrupt):
        list(decode(row, 9))
    in_flight = SCRIPT[reads : reads + 1] if memory == "full ring" and reads else []
    assert row.fed == [*range(9), *SCRIPT[:reads], *in_flight]
    assert_fed(row, windows)


# In which order ----------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> ScriptedDecoder:
    """A decoder whose log has the reads of tokens as well, and what the chunks were."""
    decoder, read = ScriptedDecoder(SCRIPT), Pending.read

    def logged(pending: Pending) -> Any:
        decoder.log.append("read")
        return read(pending)

    monkeypatch.setattr(Pending, "read", logged)
    return decoder


def test_the_next_step_is_submitted_before_the_last_token_is_read_but_the_first_does_not_wait(
    watched: ScriptedDecoder,
):
    generate(watched, [1, 2, 3, 4, 5, 6], 4, step=3)
    one = ("pass", 1)
    assert watched.log == [("pass", 3), ("pass", 2), one, "read", one, one, "read", one, "read", "read"]


def test_a_single_token_takes_a_single_pass(watched: ScriptedDecoder):
    generate(watched, [1], 1)
    assert watched.log == [("pass", 1), "read"]


def test_leaving_early_submits_nothing_more(watched: ScriptedDecoder):
    generate(watched, [1], 100, stop_after=2)
    assert [entry for entry in watched.log if entry != "read"] == [("pass", 1)] * 3


@pytest.mark.parametrize(
    ("prompt", "held", "step", "expected"),
    [
        (11, 0, 4, [4, 8, 10]),
        (11, 0, 5, [5, 10]),
        (11, 0, 1, list(range(1, 11))),
        (11, 3, 4, [7, 10]),
        (11, 10, 4, []),
        (1, 0, 4, []),
        (2, 0, 4, [1]),
    ],
)
def test_progress_counts_up_to_the_last_token(prompt: int, held: int, step: int, expected: list[int]):
    decoder = ScriptedDecoder(SCRIPT)
    state = decoder.new_state()
    if held:
        decoder.hidden(mx.zeros((1, held), mx.int32), state)
    row = Row(decoder, [0] * prompt, state, Sampling(), seed=0)
    assert list(prefill(row, step)) == [Progress(n, prompt) for n in expected]


def test_a_long_answer_hands_outgrown_buffers_back(monkeypatch: pytest.MonkeyPatch):
    cleared: list[int] = []
    decoder, clear = ScriptedDecoder(SCRIPT), mx.clear_cache

    def counted() -> None:
        cleared.append(decoder.drawn)
        clear()

    monkeypatch.setattr(mx, "clear_cache", counted)
    drawn, row = generate(decoder, [1], loop.CLEAN_EVERY + 40)
    assert [one.token for one in drawn] == [SCRIPT[i % len(SCRIPT)] for i in range(loop.CLEAN_EVERY + 40)]
    assert cleared == [loop.CLEAN_EVERY + 1]
    assert_fed(row, (None, None))


def test_greedy_computes_no_logprobs_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch):
    asked: list[int | None] = []

    def asked_for(logits: mx.array, token: mx.array, count: int) -> Any:
        asked.append(count)
        return logprobs_of(logits, token, count)

    monkeypatch.setattr(row, "logprobs_of", asked_for)
    drawn, _ = generate(ScriptedDecoder(SCRIPT), [1, 2], 3)
    assert asked == []
    assert {(one.logprob, one.top) for one in drawn} == {(None, ())}
    drawn, _ = generate(ScriptedDecoder(SCRIPT), [1, 2], 3, logprobs=0)
    assert asked == [0, 0, 0]
    assert all(one.logprob < 0 and one.top == () for one in drawn)
