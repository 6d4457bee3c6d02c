"""Whether a model fits, how far it could go, in how many bits: by hand at true size, and as properties."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlxone.core.facts import LayerFacts, ModelFacts
from mlxone.fitting.machine import Kind
from mlxone.fitting.report import LONGEST, Case, Corrections, FitReport, best_bits, report
from mlxone.fitting.transient import transient_bytes
from mlxone.fitting.weights import WIDTHS, quantized
from mlxone.fitting.work import Work
from tests.fitting.cases import GB, SMALL, kinds, machine, models, true_size, with_layers, works

forms = st.sampled_from(["stored", "wide", "packed"])
corrections = st.builds(Corrections, transient=st.sampled_from([0.2, 1.0, 1.37, 4.0]))


def asked(facts: ModelFacts, usable: int = 16 * GB, free: int | None = None, **work: Any) -> FitReport:
    return report(Case(facts, machine(usable, free=free)), Work(**work), model="m")


# The sum ------------------------------------------------------------------------------------


def test_the_parts_of_gemma_26b():
    found = asked(true_size("gemma-4-26B-A4B"), 24 * GB, context=8192)
    # All experts have to be there: 25,232,441,344 parameters in 4 bits with scales, 171,776 of norms.
    assert found.weights_bytes == 25_232_441_344 // 2 + 25_232_441_344 // 64 * 4 + 171_776 * 2
    # 25 sliding layers hold 1024 tokens of 8 heads x 512, 5 full ones 8192 of 2 heads x 1024; 2 bytes each.
    assert found.kv_bytes == (25 * 1024 * 8 * 512 + 5 * 8192 * 2 * 1024) * 2
    assert found.transient_bytes > 0
    assert found.total_bytes == found.weights_bytes + found.kv_bytes + found.transient_bytes
    assert (found.context_tokens, found.rows, found.context_length) == (8192, 1, 262_144)
    assert found.fits and found.reason == ""


def test_llama_70b_fits_no_machine_of_32_gb():
    found = asked(true_size("Llama-3.3-70B"), 32 * GB, context=2048)
    assert not found.fits and not found.fits_now
    assert (found.max_safe_context, found.max_context_now) == (0, 0)
    assert found.reason == f"{(found.total_bytes - 32 * GB) / 1e9:.1f} GB more than a model may use here"


def test_on_64_gb_it_fits_up_to_the_context_that_the_report_names():
    facts = true_size("Llama-3.3-70B")
    found = asked(facts, 64 * GB, context=8192)
    assert found.fits and 8192 <= found.max_safe_context < 131_072
    # 24.3 GB are left beside the weights, of which a token takes 327,680 bytes.
    assert found.max_safe_context < (64 * GB - found.weights_bytes) / 327_680
    assert asked(facts, 64 * GB, context=found.max_safe_context).fits
    assert not asked(facts, 64 * GB, context=found.max_safe_context + 1).fits


def test_vision_brings_the_towers_with_it():
    facts, here = true_size("Qwen3.5-4B"), machine()
    text, seeing = (report(Case(facts, here), Work(vision=vision)) for vision in (False, True))
    assert seeing.total_bytes - text.total_bytes == text.sidecar_bytes == 8 * 1024 * 4096 * 2


def test_what_was_measured_corrects_the_transient_and_the_speeds():
    fast = machine(bandwidth=1e11, flops=1e13)
    plain, corrected = Case(SMALL, fast), Case(SMALL, fast, corrections=Corrections(2.0, 0.5, 0.25))
    one, other = plain.needs(Work()), corrected.needs(Work())
    assert other.transient_bytes == 2 * one.transient_bytes
    assert (other.weights_bytes, other.kv_bytes) == (one.weights_bytes, one.kv_bytes)
    assert corrected.speeds(Work()) == tuple(
        x * y for x, y in zip(plain.speeds(Work()), (0.5, 0.25), strict=True)
    )


# Fits or not --------------------------------------------------------------------------------


def test_to_the_byte():
    total = asked(SMALL).total_bytes
    assert asked(SMALL, total).fits
    assert not asked(SMALL, total - 1).fits


def test_fits_but_not_now():
    total = asked(SMALL).total_bytes
    found = asked(SMALL, 16 * GB, free=total - 1)
    assert found.fits and not found.fits_now
    assert found.max_context_now < 8192 <= found.max_safe_context
    assert (found.usable_bytes, found.free_bytes) == (16 * GB, total - 1)
    assert asked(SMALL, 16 * GB, free=total).fits_now


def test_longer_than_the_model_was_made_for():
    facts = replace(SMALL, context_length=4096)
    assert asked(facts, context=4096).fits
    found = asked(facts, context=4097)
    assert not found.fits and not found.fits_now
    assert found.reason == "4,097 tokens are more than the 4,096 the model was made for"
    assert found.max_safe_context == 4096


@given(models, works, kinds, st.integers(1, 200 * GB), st.integers(0, 200 * GB))
def test_what_a_report_says_is_consistent(facts: ModelFacts, work: Work, kind: Kind, usable: int, free: int):
    found = report(Case(facts, machine(usable, free=min(usable, free), kind=kind)), work)
    within = facts.context_length is None or work.context <= facts.context_length
    assert found.fits is (within and found.total_bytes <= usable)
    assert found.fits_now is (within and found.total_bytes <= min(usable, free))
    assert (found.reason == "") is found.fits and "\n" not in found.reason
    assert found.max_context_now <= found.max_safe_context <= (facts.context_length or LONGEST)
    # What fits is no longer than the longest that does; the other way round too.
    assert found.fits is (work.context <= found.max_safe_context)
    assert (found.predicted_decode_tps, found.predicted_prefill_tps) == (None, None)
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


# The largest context ------------------------------------------------------------------------


@given(models, works, kinds, forms, corrections, st.integers(0, 300 * GB))
def test_the_largest_context_is_the_largest(facts, work, kind, form, corrected, budget):
    case = Case(facts, machine(kind=kind), form, corrected)
    limit = facts.context_length or LONGEST

    def total(context: int) -> int:
        return case.needs(replace(work, context=context)).total_bytes

    found = case.max_context(work, budget)
    assert 0 <= found <= limit
    assert found == 0 or total(found) <= budget
    assert found == limit or total(found + 1) > budget


@given(models, works, kinds, forms, corrections, st.integers(1, 100_000))
def test_asking_for_more_never_takes_less(facts, work, kind, form, corrected, more):
    case = Case(facts, machine(kind=kind), form, corrected)
    total = case.needs(work).total_bytes
    for longer in (
        replace(work, context=work.context + more),
        replace(work, rows=work.rows + more),
        replace(work, prefill_step=work.prefill_step + more),
        replace(work, vision=True),
    ):
        assert case.needs(longer).total_bytes >= total


@given(models, works, kinds, st.integers(0, 300 * GB), st.integers(0, 300 * GB))
def test_more_memory_never_means_less_context(facts, work, kind, one, other):
    case = Case(facts, machine(kind=kind))
    assert case.max_context(work, min(one, other)) <= case.max_context(work, max(one, other))


def test_a_model_that_keeps_nothing_is_searched_up_to_an_end():
    facts = with_layers(LayerFacts(4, "none"), heads=1)
    assert Case(facts, machine()).max_context(Work(), 10**15) == LONGEST
    assert Case(replace(facts, context_length=99), machine()).max_context(Work(), 10**15) == 99


# The most bits ------------------------------------------------------------------------------


def test_the_most_bits_of_llama_70b_by_hand():
    # 70.55e9 matrices: 8 bits with scales take 75.0 GB, 6 57.3, 5 48.5, 4 39.7, 3 30.9, 2 22.0.
    facts, work = true_size("Llama-3.3-70B", None), Work(256)
    chosen = {
        usable: best_bits(Case(facts, machine(usable * GB)), work) for usable in (90, 62, 52, 42, 33, 24, 20)
    }
    assert chosen == {90: 8, 62: 6, 52: 5, 42: 4, 33: 3, 24: 2, 20: None}


@given(models, works, st.integers(0, 3_000_000))
def test_the_most_bits_are_the_most(facts: ModelFacts, work: Work, beside: int):
    plain = Case(facts, machine())
    usable = beside + plain.needs(work).total_bytes - plain.needs(work).weights_bytes
    assume(usable > 0)
    case = Case(facts, machine(usable))
    fitting = [b for b in WIDTHS if asked_bits(case, b, work) <= usable]
    assert best_bits(case, work) == max(fitting, default=None)


def asked_bits(case: Case, bits: int, work: Work) -> int:
    return replace(case, facts=quantized(case.facts, bits)).needs(work).total_bytes


# Speeds and JSON ----------------------------------------------------------------------------


def test_speeds_of_a_machine_that_is_known():
    found = report(Case(SMALL, machine(bandwidth=1e9, flops=1e12)), Work(1000))
    decode, prefill = 1e9 / (2_000_000 + 1024 * 2 * 4 * 128 * 2), 1e12 / (2e6 + 2 * 2 * 2 * 8 * 64 * 500)
    assert found.predicted_decode_tps == pytest.approx(decode, rel=0.005)  # three digits are shown
    assert found.predicted_prefill_tps == pytest.approx(prefill, rel=0.005)
    assert found.predicted_first_token_seconds == pytest.approx(1000 / prefill + 1 / decode, rel=0.005)


def test_no_speed_is_made_up():
    found = asked(SMALL)
    assert (found.predicted_decode_tps, found.predicted_prefill_tps) == (None, None)
    assert found.predicted_first_token_seconds is None
    half = report(Case(SMALL, machine(bandwidth=1e9)), Work())
    assert half.predicted_decode_tps and half.predicted_first_token_seconds is None


def test_json_has_the_names_that_scripts_read():
    found = report(Case(SMALL, machine()), Work(kv_quant="8"), model="a/b", notes=("one", "two")).to_json()
    assert {
        "fits", "fits_now", "context_tokens", "weights_bytes", "kv_bytes", "transient_bytes", "total_bytes",
        "usable_bytes", "max_safe_context", "predicted_decode_tps", "predicted_prefill_tps", "reason", "rows",
    } <= found.keys()  # fmt: skip
    assert (found["model"], found["kv_quant"], found["notes"]) == ("a/b", "8", ["one", "two"])


def test_the_machines_kind_decides_the_transient():
    for kind in ("cpu", "cuda", "apple"):
        needs = Case(SMALL, machine(kind=kind)).needs(Work())
        assert needs.transient_bytes == transient_bytes(SMALL, Work(), kind, 2)
