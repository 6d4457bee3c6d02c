"""Predicted speed: exact where a machine reaches its own measured peak, never made up, right in tendency."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.facts import ModelFacts
from mlxone.fitting.machine import Kind, Machine
from mlxone.fitting.speed import SHARES, decode_tps, prefill_tps
from mlxone.fitting.states import kv_bytes
from mlxone.fitting.weights import quantized
from mlxone.fitting.work import Work
from tests.fitting.cases import SMALL, kinds, machine, models, true_size, works

SHORT = Work(256)


def fast(kind: Kind = "cpu", bandwidth: float = 1e11, flops: float = 1e12) -> Machine:
    return machine(kind=kind, bandwidth=bandwidth, flops=flops)


@pytest.mark.parametrize("kind", SHARES)
def test_no_speed_is_made_up(kind: Kind):
    unknown = machine(kind=kind)
    assert decode_tps(SMALL, unknown, SHORT, "stored") is None
    assert prefill_tps(SMALL, unknown, SHORT, "stored") is None
    half_known = replace(unknown, bandwidth=1e9)
    assert decode_tps(SMALL, half_known, SHORT, "stored") is not None
    assert prefill_tps(SMALL, half_known, SHORT, "stored") is None


def test_decoding_reads_weights_and_states_once_a_token():
    # 2 layers x 4 heads x (64 + 64) values x 256 tokens x 2 bytes.
    states = 2 * 4 * 128 * 256 * 2
    assert decode_tps(SMALL, fast(), SHORT, "stored") == pytest.approx(1e11 / (2_000_000 + states))
    # Widened, both are float32.
    assert decode_tps(SMALL, fast(), SHORT, "wide") == pytest.approx(1e11 / (4_000_000 + 2 * states))


@pytest.mark.parametrize(("name", "chosen", "of"), [("gemma-4-26B-A4B", 8, 128), ("Qwen3.6-35B-A3B", 8, 256)])
def test_decoding_reads_only_the_experts_that_are_chosen(name: str, chosen: int, of: int):
    facts = true_size(name)
    read = facts.language_bytes - facts.lookup_bytes - facts.expert_bytes * (of - chosen) / of
    states = kv_bytes(facts, SHORT, 2)
    assert decode_tps(facts, fast(), SHORT, "stored") == pytest.approx(1e11 / (read + states))
    dense = replace(facts, experts=0, experts_per_token=0)
    assert decode_tps(facts, fast(), SHORT, "stored") > 2 * decode_tps(dense, fast(), SHORT, "stored")


def test_a_table_that_is_only_looked_up_is_not_read():
    facts = true_size("Llama-3.3-70B")
    read = facts.language_bytes - 128_256 * 8192 // 2 - 128_256 * 8192 // 64 * 4
    assert decode_tps(facts, fast(), SHORT, "stored") == pytest.approx(1e11 / (read + 256 * 327_680))


def test_reading_a_prompt_is_two_operations_a_parameter_and_a_look_at_all_before():
    # 8 heads of 64, 2 layers; on average half of 1000 tokens are before one, each looked at twice.
    looking = 2 * (2 * 2 * 8 * 64 * 500)
    assert prefill_tps(SMALL, fast(), Work(1000), "stored") == pytest.approx(1e12 / (2 * 1_000_000 + looking))


def test_reading_a_prompt_computes_with_chosen_experts_only():
    facts = true_size("Qwen3.6-35B-A3B")
    dense = replace(facts, experts=0, experts_per_token=0)
    assert prefill_tps(facts, fast(), SHORT, "stored") > 5 * prefill_tps(dense, fast(), SHORT, "stored")


@given(models, works, kinds, st.integers(1, 10_000))
def test_tendencies(facts: ModelFacts, work: Work, kind: Kind, more: int):
    here, longer = fast(kind), replace(work, context=work.context + more)
    assert 0 < decode_tps(facts, here, longer, "stored") <= decode_tps(facts, here, work, "stored")
    assert 0 < prefill_tps(facts, here, longer, "stored") <= prefill_tps(facts, here, work, "stored")
    better = fast(kind, bandwidth=2e11, flops=2e12)
    # A device that outruns its host gains nothing from being faster.
    assert decode_tps(facts, better, work, "stored") >= decode_tps(facts, here, work, "stored")
    assert prefill_tps(facts, better, work, "stored") == pytest.approx(
        2 * prefill_tps(facts, here, work, "stored")
    )


@pytest.mark.parametrize("kind", SHARES)
def test_no_chip_is_faster_than_its_peak(kind: Kind):
    for form in ("stored", "packed"):
        facts = quantized(SMALL, 4)
        assert decode_tps(facts, fast(kind), SHORT, form) <= 1e11 / facts.active_bytes
    assert prefill_tps(SMALL, fast(kind), SHORT, "stored") <= 1e12 / (2 * SMALL.parameters)


@pytest.mark.parametrize("kind", ["cuda", "apple"])
def test_fewer_bits_are_faster(kind: Kind):
    four, eight = (decode_tps(quantized(SMALL, b), fast(kind, 1e9), SHORT, "stored") for b in (4, 8))
    assert four > eight


def test_quantized_states_are_read_faster():
    facts, work = true_size("Llama-3.3-70B"), Work(131_072)
    off, eight, four = (
        decode_tps(facts, fast("apple"), replace(work, kv_quant=q), "stored") for q in ("off", "8", "4")
    )
    assert off < eight < four
