"""One model over the line of Macs, against the report of each Mac by itself."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mlxone.fitting.chips import APPLE, GIB
from mlxone.fitting.machine import as_sold
from mlxone.fitting.report import Case, report
from mlxone.fitting.skus import sku_matrix
from mlxone.fitting.work import Work
from tests.fitting.cases import SMALL, models, true_size, works


def test_every_mac_once_in_the_order_of_the_table():
    cells = sku_matrix(SMALL)
    assert [(c.chip, c.memory_gb) for c in cells] == [(c.label, m) for c in APPLE for m in c.memory_options]
    assert all(c.fits for c in cells)


def test_llama_70b_by_hand():
    # 39.69 GB of weights and 2.68 of states at 8k; three quarters of the memory may be used.
    cells = {(c.chip, c.memory_gb): c for c in sku_matrix(true_size("Llama-3.3-70B"))}
    refused, enough = cells["M1 Max 32-core", 32], cells["M1 Max 32-core", 64]
    assert (refused.fits, refused.max_safe_context, refused.predicted_decode_tps) == (
        False,
        0,
        None,
    )  # 25.8 GB
    assert (
        enough.fits and enough.max_safe_context is not None and enough.predicted_decode_tps is not None
    )  # 51.5 GB
    # What is left beside the weights, at 327,680 bytes a token, is an upper bound; so is the bandwidth.
    assert 8192 <= enough.max_safe_context < (0.75 * 64 * GIB - 39.69e9) / 327_680
    assert enough.predicted_decode_tps < 400e9 / 39.1e9
    fitting = {memory for (_, memory), cell in cells.items() if cell.fits}
    assert min(fitting) == 64 and max(fitting) == 512
    assert not any(cell.fits for (_, memory), cell in cells.items() if memory <= 48)


def test_the_same_memory_holds_the_same_and_bandwidth_decides_the_speed():
    cells = sku_matrix(true_size("gemma-4-26B-A4B"))
    by_memory: dict[int, set[int | None]] = {}
    for cell in cells:
        by_memory.setdefault(cell.memory_gb, set()).add(cell.max_safe_context)
    assert all(len(contexts) == 1 for contexts in by_memory.values())
    bandwidths = {chip.label: chip.bandwidth for chip in APPLE}
    known = sorted((bandwidths[c.chip], c.predicted_decode_tps) for c in cells if c.predicted_decode_tps)
    assert known == sorted(known, key=lambda pair: pair[1])


def test_what_is_asked_reaches_each_cell():
    facts = true_size("Llama-3.3-70B")
    usual, long, four = sku_matrix(facts), sku_matrix(facts, Work(65_536)), sku_matrix(facts, Work(rows=4))
    assert sum(c.fits for c in usual) > sum(c.fits for c in long) > 0
    for one, many in zip(usual, four, strict=True):
        assert (many.max_safe_context or 0) <= (one.max_safe_context or 0)
    assert [c.memory_gb for c in sku_matrix(facts, chips=APPLE[:1])] == [8, 16]


def test_a_model_of_short_context_is_not_asked_for_more_than_it_has():
    short = replace(SMALL, context_length=512)
    assert all(not c.fits and c.max_safe_context == 512 for c in sku_matrix(short))
    assert all(c.fits for c in sku_matrix(short, Work(512)))


@settings(max_examples=25)
@given(models, works, st.sampled_from(APPLE))
def test_each_cell_says_what_a_report_of_that_mac_says(facts, work, chip):
    for sku in sku_matrix(facts, work, [chip]):
        there = report(Case(facts, as_sold(chip, sku.memory_gb)), work)
        same = ("fits", "total_bytes", "usable_bytes", "max_safe_context")
        assert [getattr(sku, name) for name in same] == [getattr(there, name) for name in same]
        assert sku.bandwidth == chip.bandwidth
        speeds = (there.predicted_decode_tps, there.predicted_prefill_tps)
        assert (sku.predicted_decode_tps, sku.predicted_prefill_tps) == (speeds if sku.fits else (None, None))
