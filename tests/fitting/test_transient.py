"""What reading a chunk needs: how it depends on what is asked. MLX says beside this how large it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.fitting.machine import Kind
from mlxone.fitting.transient import COSTS, PART, transient_bytes
from mlxone.fitting.work import Work
from mlxone.models.parts.mamba2 import CHUNK
from tests.fitting.cases import kinds, models, true_size, with_layers, works

FULL = LayerFacts(32, "full", 8, 128, 128)
SLIDING = LayerFacts(32, "sliding", 8, 128, 128)
SMALL_HEADS = with_layers(FULL).heads


def needed(facts: ModelFacts, kind: Kind, context: int = 32_768, **work: Any) -> int:
    return transient_bytes(facts, Work(context, **work), kind, 2)


@given(models, works, kinds, st.sampled_from([2, 4]), st.integers(1, 50_000))
def test_asking_for_more_never_takes_less(facts: ModelFacts, work: Work, kind: Kind, element: int, more: int):
    least = transient_bytes(facts, work, kind, element)
    assert least > 0
    for longer in (
        replace(work, context=work.context + more),
        replace(work, rows=work.rows + more),
        replace(work, prefill_step=work.prefill_step + more),
    ):
        assert transient_bytes(facts, longer, kind, element) >= least
    assert transient_bytes(facts, work, kind, 2 * element) >= least


@given(models, works, kinds)
def test_a_step_longer_than_the_prompt_changes_nothing(facts: ModelFacts, work: Work, kind: Kind):
    whole = replace(work, prefill_step=work.context)
    longer = replace(work, prefill_step=work.context + 1000)
    assert transient_bytes(facts, whole, kind, 2) == transient_bytes(facts, longer, kind, 2)


@pytest.mark.parametrize("kind", COSTS)
def test_how_many_layers_there_are_makes_no_difference(kind: Kind):
    # A few are in memory at once; a window's surplus is each sliding layer's own.
    assert needed(with_layers(FULL), kind) == needed(with_layers(replace(FULL, count=2)), kind)
    two, many = (with_layers(replace(SLIDING, count=n), window=1024, head_dim=128) for n in (2, 32))
    surplus = (2048 - 1) * 8 * (128 + 128) * 2  # a chunk of 2048 less one, keys and values
    assert needed(many, kind) - needed(two, kind) == 30 * surplus


def scores(facts: ModelFacts, kind: Kind) -> int:
    """What a context twice as long adds: tables of scores and copies of states grow, all else stays."""
    no_copies = replace(facts, layers=tuple(replace(layer, kind="shared") for layer in facts.layers))
    return needed(no_copies, kind, 65_536) - needed(no_copies, kind, 32_768)


@pytest.mark.parametrize(
    ("kind", "dim", "written"),
    [
        ("cuda", 64, False), ("cuda", 128, False), ("cuda", 256, True), ("cuda", 512, True),
        ("apple", 80, False), ("apple", 128, False), ("apple", 256, True), ("cpu", 64, True),
        ("cpu", 128, True),
    ],
)  # fmt: skip
def test_scores_are_written_down_where_attention_is_not_fused(kind: Kind, dim: int, written: bool):
    facts = with_layers(replace(FULL, key_dim=dim, value_dim=dim), head_dim=dim, heads=8)
    added = scores(facts, kind)
    assert (added > 0) is written
    if written:  # a table for each head: a row for each token of the chunk, a column for each of the context
        assert added >= 8 * 2048 * 32_768 * 2


def test_a_window_needs_its_mask_and_so_a_table_on_some():
    facts = with_layers(SLIDING, window=4096, head_dim=128, heads=8)
    inside, past = (needed(facts, "cuda", context) for context in (4096, 32_768))
    assert past - inside > 8 * 2048 * (4096 + 2047) * 2  # at least the table
    # Metal's fused attention takes masks: what comes past the window is its surplus alone.
    inside, past = (needed(facts, "apple", context) for context in (4096, 32_768))
    surplus = 2047 * 8 * (128 + 128) * 2  # of one layer, which is also copied as it moves
    assert 32 * surplus < past - inside < 35 * surplus


def test_a_sliding_table_does_not_grow_with_the_context():
    facts = with_layers(SLIDING, window=1024, head_dim=128)
    assert needed(facts, "cpu", 8192) == needed(facts, "cpu", 200_000)


def test_a_buffer_that_moves_stands_there_twice():
    # The longer the context, the larger one layer's state: no chunk is that large any more.
    facts = with_layers(FULL, head_dim=128)
    one_layer = 1_048_576 * 8 * (128 + 128) * 2
    assert needed(facts, "cuda", 1_048_576) - needed(facts, "cuda", 2048) > one_layer


def test_a_copy_stands_beside_what_the_chunk_computes():
    facts = with_layers(FULL, head_dim=128)
    short, long = (needed(facts, "cuda", 1_048_576, prefill_step=n) for n in (256, 2048))
    assert long - short > 1000 * 8 * 128 * 2  # more than the queries of the tokens that came on top


def test_rows_take_logits_and_scores_of_their_own_when_they_decode():
    facts = with_layers(LayerFacts(4, "recurrent", state_bytes=100), vocab_size=250_000)
    few, many = needed(facts, "cuda", 1024, rows=1000), needed(facts, "cuda", 1024, rows=2000)
    assert many - few > 1000 * 250_000 * 4  # logits are float32
    assert needed(facts, "cuda", 1024, rows=2) == needed(facts, "cuda", 1024, rows=1)  # a chunk is larger


@pytest.mark.parametrize("kind", COSTS)
def test_a_smaller_step_is_a_way_out(kind: Kind):
    facts = true_size("Llama-3.3-70B")
    assert needed(facts, kind, 8192, prefill_step=256) < needed(facts, kind, 8192, prefill_step=2048) / 2


# What only some families compute --------------------------------------------------------------

STATE = 32 * 128 * 128 * 4
DELTA = LayerFacts(24, "recurrent", state_bytes=STATE, tail=3 * 8192, channels=8192, by_token=True)
MAMBA = LayerFacts(24, "recurrent", state_bytes=STATE, tail=3 * 8192, channels=8192, pair_heads=64)


def test_mamba_takes_as_many_tokens_at_once_as_is_believed():
    assert PART == CHUNK


@pytest.mark.parametrize("kind", COSTS)
def test_of_a_chunk_of_gated_delta_few_tokens_have_their_state_in_memory(kind: Kind):
    small, large = (with_layers(replace(DELTA, state_bytes=n), heads=1) for n in (STATE, 2 * STATE))
    short, long = (
        needed(large, kind, prefill_step=step) - needed(small, kind, prefill_step=step)
        for step in (256, 2048)
    )
    assert 8 * STATE < short < 100 * STATE
    assert long == pytest.approx(short, abs=3 * STATE)  # a longer chunk has no more of them


def test_gated_delta_begins_before_the_scores_of_the_layer_before_are_gone():
    both, delta, full = (
        needed(with_layers(*layers), "cpu", 4096) for layers in ((FULL, DELTA), (DELTA,), (FULL,))
    )
    assert both > 1.1 * max(delta, full)


@pytest.mark.parametrize("kind", COSTS)
def test_tables_of_mamba_are_of_one_part(kind: Kind):
    table = 64 * PART * PART * 4
    with_tables, without = (with_layers(replace(MAMBA, pair_heads=n), heads=1) for n in (64, 1))
    for step in (256, 2048):
        more = needed(with_tables, kind, prefill_step=step) - needed(without, kind, prefill_step=step)
        assert 5 * table < more < 20 * table


def test_parts_of_their_own_are_in_memory_together():
    # Where a layer is one part, an attending one follows a recurrent one at once.
    parts = FULL, MAMBA, LayerFacts(10, "none")
    both, apart = (needed(with_layers(*layers), "cpu", 4096) for layers in (parts, parts[:2]))
    assert both > 1.1 * apart > 1.1 * needed(with_layers(FULL), "cpu", 4096)


def test_sinks_copy_the_table_of_scores():
    one, three = (with_layers(replace(FULL, score_tables=n)) for n in (1, 3))
    table = SMALL_HEADS * 2048 * 32_768 * 2
    assert needed(three, "cpu") - needed(one, "cpu") == 2 * table


def test_latent_attention_unfolds_what_it_keeps():
    kept = LayerFacts(60, "full", 1, 512, 64, score_tables=2)
    plain, latent = (with_layers(replace(kept, unfolded=n)) for n in (0, 128 * 256))
    assert needed(latent, "cpu") - needed(plain, "cpu") >= 32_768 * 128 * 256 * 2
    assert scores(latent, "cuda") > scores(with_layers(replace(kept, key_dim=128)), "cuda")  # never fused


def test_chosen_experts_each_have_a_copy_of_the_hidden_state():
    few, many = (with_layers(FULL, experts=64, experts_per_token=n) for n in (2, 8))
    assert needed(many, "cpu") - needed(few, "cpu") >= 6 * 2048 * few.hidden_size * 2
