"""The library's `fit`: a name to a report, over files of true size, on machines that are only numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.backend import cpu
from mlxone.core.errors import AmbiguousModel, HubError, ModelNotFound, UsageError
from mlxone.core.facts import ModelFacts
from mlxone.fitting.learned import ENOUGH
from mlxone.fitting.report import Case, FitReport
from mlxone.fitting.skus import sku_matrix as skus_of
from mlxone.fitting.store import Measurement
from mlxone.fitting.weights import quantized
from mlxone.fitting.work import Work
from mlxone.hub import places
from mlxone.service import fitting
from mlxone.service.fitting import fit, sku_matrix
from mlxone.service.here import learned_store
from tests.cli.shelf import cached
from tests.fitting.cases import GB, SMALL, machine, true_size
from tests.hub.conftest import fake_hub as fake_hub  # a fixture: this name is what asks for it
from tests.hub.fake_hub import FakeHub, refuse
from tests.hub.published import publish
from tests.sparse import write_model

LLAMA, MOE, GEMMA = "Llama-3.3-70B", "gemma-4-26B-A4B", "gemma-4-12B"
# 4 bits and, for each 64, a scale and a bias of 16 bits; norms in 16 bits.
LLAMA_BYTES = 70_552_387_584 * 9 // 16 + 1_318_912 * 2
MOE_BYTES = 25_232_441_344 * 9 // 16 + 171_776 * 2
THERE = machine(24 * GB, free=20 * GB, kind="cuda", bandwidth=3e12, flops=9e14)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card, wherever this runs."""
    monkeypatch.setattr(fitting, "this_machine", lambda store: THERE)


@pytest.fixture
def moe(there: None, tmp_path: Path) -> Path:
    return write_model(tmp_path / "moe", MOE)


@pytest.fixture
def llama(there: None, tmp_path: Path) -> Path:
    return write_model(tmp_path / "llama", LLAMA)


def consistent(found: FitReport) -> None:
    assert found.total_bytes == found.weights_bytes + found.kv_bytes + found.transient_bytes
    within = found.context_length is None or found.context_tokens <= found.context_length
    assert found.fits is (found.total_bytes <= found.usable_bytes and within)
    assert found.fits_now is (found.fits and found.total_bytes <= found.free_bytes)
    assert bool(found.reason) is not found.fits
    assert found.free_bytes <= found.usable_bytes
    assert found.fits is (found.context_tokens <= found.max_safe_context)


# The report ----------------------------------------------------------------------------------


def test_the_parts_of_26b(moe: Path):
    found = fit(moe)
    assert (found.model, found.machine, found.context_tokens, found.rows) == ("moe", THERE.name, 8192, 1)
    assert found.weights_bytes == MOE_BYTES
    assert found.kv_bytes == (25 * 1024 * 8 * 512 + 5 * 8192 * 2 * 1024) * 2
    assert (found.usable_bytes, found.free_bytes) == (24 * GB, 20 * GB)
    assert found.fits and found.fits_now and found.predicted_decode_tps is not None
    assert (found.parameters, found.bits, found.context_length) == (25_232_613_120, 4.0, 262_144)
    consistent(found)


def test_70b_does_not_fit_24_gb_and_fits_80(llama: Path):
    small, large = fit(llama), fit(llama, memory_budget=80)
    assert small.weights_bytes == large.weights_bytes == LLAMA_BYTES
    assert small.kv_bytes == 8192 * 80 * 8 * 256 * 2
    assert (small.fits, small.max_safe_context) == (False, 0)
    assert small.reason.endswith(" GB more than a model may use here")
    assert large.fits and large.usable_bytes == 80 * GB
    assert not large.fits_now and large.free_bytes == 20 * GB  # a budget frees no memory
    for found in (small, large):
        consistent(found)


def test_a_budget_below_what_is_free_bounds_that_too(moe: Path):
    found = fit(moe, memory_budget=15.5)
    assert (found.usable_bytes, found.free_bytes, found.fits) == (15_500_000_000, 15_500_000_000, False)
    total = fit(moe).total_bytes
    assert fit(moe, memory_budget=total / 1e9).fits
    assert not fit(moe, memory_budget=(total - 1000) / 1e9).fits


def test_the_context_it_names_fits_and_the_next_does_not(llama: Path):
    longest = fit(llama, memory_budget=64).max_safe_context
    assert 8192 <= longest < (64 * GB - LLAMA_BYTES) / 327_680
    assert fit(llama, longest, memory_budget=64).fits
    assert not fit(llama, longest + 1, memory_budget=64).fits


def test_the_usual_context_is_the_models_own_where_that_is_shorter(there: None, tmp_path: Path):
    folder = write_model(tmp_path / "short", GEMMA, max_position_embeddings=4096)
    assert fit(folder).context_tokens == 4096
    found = fit(folder, 4097)
    assert not found.fits and "4,096 the model was made for" in found.reason
    consistent(found)


def test_rows_steps_and_towers(moe: Path):
    one, four = fit(moe), fit(moe, batch=4)
    assert (four.rows, four.kv_bytes, four.weights_bytes) == (4, 4 * one.kv_bytes, one.weights_bytes)
    assert fit(moe, prefill_step=128).transient_bytes < one.transient_bytes
    seeing = fit(moe, vision=True)
    assert seeing.weights_bytes - one.weights_bytes == one.sidecar_bytes == 8 * 4 * 1152**2 * 2


def test_quantized_keys_by_hand(llama: Path):
    off, eight, four = (fit(llama, kv_quant=kind).kv_bytes for kind in ("off", "8", "4"))
    token = 80 * 8 * 256  # elements; a scale and a bias for 64 of them
    assert (off, eight, four) == tuple(8192 * token * bits // 16 for bits in (32, 17, 9))


def test_the_models_own_kv_config(llama: Path):
    assert fit(llama, kv_quant="config").kv_bytes == fit(llama).kv_bytes  # it has none
    rows = [{"layer_idx": i, "bits": 8 if i < 10 else 4, "group_size": 64} for i in range(70)]
    (llama / "kv_config.json").write_text(json.dumps(rows))
    each = 8192 * 8 * 256
    assert fit(llama, kv_quant="config").kv_bytes == each * (10 * 17 + 60 * 9 + 10 * 32) // 16
    assert fit(llama).kv_bytes == 80 * each * 2


def test_as_if_quantized(there: None, tmp_path: Path):
    folder = write_model(tmp_path / "plain", LLAMA, bits=None)
    found = fit(folder, bits=4)
    assert (found.weights_bytes, found.bits) == (LLAMA_BYTES, 4.0)
    assert fit(folder).weights_bytes == 70_553_706_496 * 2


@pytest.mark.parametrize(
    ("budget", "bits"), [(90, 8), (64, 6), (54, 5), (46, 4), (36, 3), (27.5, 2), (20, None)]
)
def test_the_most_bits(there: None, tmp_path: Path, budget: float, bits: int | None):
    # 8 bits take 75.0 GB, 6 57.3, 5 48.5, 4 39.7, 3 30.9, 2 22.0; states and transients 3 to 4 more.
    found = fit(true_size(LLAMA, None), 2048, memory_budget=budget, best=True)
    assert (found.best_bits, found.fits) == (bits, bits is not None)
    assert found.bits == (bits or 2)
    wider = [b for b in (8, 6, 5, 4, 3, 2) if b > (bits or 0)]
    for more in wider:
        assert not fit(true_size(LLAMA, None), 2048, memory_budget=budget, bits=more).fits
    if bits:
        assert replace(found, best_bits=None) == fit(
            true_size(LLAMA, None), 2048, memory_budget=budget, bits=bits
        )
    consistent(found)


def test_what_this_machine_taught_counts(moe: Path):
    before = fit(moe)
    with learned_store() as store:
        for kind, factor in (("decode_tps", 0.5), ("transient", 1.25)):
            for _ in range(ENOUGH):
                store.add_measurement(Measurement(kind, THERE.key, "org/m", 100.0, 100.0 * factor))  # type: ignore[arg-type]
            store.add_measurement(Measurement(kind, "another machine", "org/m", 1.0, 4.0))  # type: ignore[arg-type]
    after = fit(moe)
    assert before.predicted_decode_tps is not None
    assert after.predicted_decode_tps == pytest.approx(before.predicted_decode_tps / 2, rel=0.01)
    assert after.transient_bytes == round(before.transient_bytes * 1.25)
    assert after.predicted_prefill_tps == before.predicted_prefill_tps


def test_notes_name_what_is_left_out(moe: Path):
    [note] = fit(moe).notes
    assert "0.08 GB, is not counted" in note


@pytest.mark.parametrize(
    "asked",
    [
        {"ctx": 0}, {"ctx": -1}, {"ctx": 1.5}, {"ctx": True}, {"ctx": "8k"},
        {"batch": 0}, {"batch": 2.0}, {"prefill_step": 0}, {"kv_quant": "2"}, {"kv_quant": 8},
        {"bits": 7}, {"bits": 16}, {"bits": 4.0}, {"bits": 0},
        {"memory_budget": 0}, {"memory_budget": -1}, {"memory_budget": float("nan")},
        {"memory_budget": float("inf")}, {"memory_budget": "24"},
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_by_name(there: None, asked: dict[str, Any]):
    with pytest.raises(UsageError) as error:
        fit(SMALL, **asked)
    assert next(iter(asked)) in str(error.value) and repr(next(iter(asked.values()))) in str(error.value)


def test_best_and_bits_exclude_each_other(there: None):
    with pytest.raises(UsageError, match="best looks for the bits"):
        fit(SMALL, bits=4, best=True)


# Which model ---------------------------------------------------------------------------------


def test_a_path_a_repo_a_query_and_facts(there: None):
    name = "mlx-community/gemma-4-26B-A4B-it-4bit"
    folder = cached(name, MOE)
    by_name = fit(name)
    assert by_name.model == name
    for same in (folder, str(folder), "26B", "gemma-4-26b-a4b", true_size(MOE)):
        assert replace(fit(same), model=name) == by_name
    assert fit(true_size(MOE)).model == "gemma4"


def test_ambiguous(there: None):
    cached("org/gemma-a", GEMMA)
    cached("org/gemma-b", MOE)
    with pytest.raises(AmbiguousModel, match=r"2 models: org/gemma-a \(6\.8 GB\), org/gemma-b \(14\.3 GB\)"):
        fit("gemma")


def test_unknown(there: None, fake_hub: FakeHub):
    with pytest.raises(ModelNotFound, match="matches 'nonsense'"):
        fit("nonsense")
    with pytest.raises(ModelNotFound, match=r"no/such/path|/no/such"):
        fit("/no/such/path")
    assert fake_hub.log == []  # only what names a repo is asked for
    with pytest.raises(ModelNotFound, match="org/none is not on the Hub"):
        fit("org/none")


def test_a_repo_that_is_not_here(there: None, fake_hub: FakeHub, tmp_path: Path):
    folder = write_model(tmp_path / "m", MOE)
    publish(fake_hub, "org/moe", folder)
    there_only = fit("org/moe")
    assert replace(there_only, model="m") == fit(folder)
    assert there_only.model == "org/moe"
    assert fit("org/moe@v2") == there_only
    assert sum(asked.sent for asked in fake_hub.asked) < 4_000_000  # of 14 GB, and asked twice
    assert not places.hf_cache().exists()
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        fit("org/moe@v9")


def test_what_is_half_there_is_asked_of_the_hub(there: None, fake_hub: FakeHub, tmp_path: Path):
    publish(fake_hub, "org/moe", write_model(tmp_path / "m", MOE))
    whole = fit("org/moe")
    folder = cached("org/moe", MOE)
    next(folder.glob("*.safetensors")).unlink()
    assert fit("org/moe") == whole
    shutil.rmtree(folder)  # its holes are not what this Hub holds, and would be compared


def test_gated_and_offline(there: None, fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repo = publish(fake_hub, "org/moe", write_model(tmp_path / "m", MOE))
    repo.info = refuse(403, "GatedRepo", "Access is restricted")
    with pytest.raises(HubError, match="org/moe is gated"):
        fit("org/moe")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so org/moe cannot be fetched"):
        fit("org/moe")


# Other machines ------------------------------------------------------------------------------


def test_the_line_of_macs(there: None, llama: Path):
    facts = true_size(LLAMA)
    assert sku_matrix(llama) == skus_of(facts, Work(8192))
    assert sku_matrix(llama, 32_768, kv_quant="8", batch=2) == skus_of(facts, Work(32_768, 2, kv_quant="8"))
    assert sku_matrix(llama, bits=2) == skus_of(quantized(facts, 2), Work(8192))
    assert sum(c.fits for c in sku_matrix(llama, bits=2)) > sum(c.fits for c in sku_matrix(llama))
    with pytest.raises(UsageError, match="bits"):
        sku_matrix(llama, bits=7)


# The CPU rule, against what loading does -----------------------------------------------------


def form_and_bytes(model: mlxone.Model) -> tuple[str, int]:
    return model.decoder.form, sum(array.nbytes for array in model.decoder.arrays())


@pytest.mark.parametrize("mode", ["auto", "native", "wide", "packed"])
def test_weights_take_what_loading_makes_of_them(
    starter_home: Path, monkeypatch: pytest.MonkeyPatch, mode: str
):
    monkeypatch.setenv("MLXONE_CPU", mode)
    found, loaded = fit("starter"), mlxone.load("starter")
    assert (found.weight_form, found.weights_bytes) == form_and_bytes(loaded)
    consistent(found)


@pytest.mark.parametrize(("times", "form"), [(3.0, "wide"), (1.5, "packed")])
def test_where_memory_is_short_weights_stay_packed(
    starter_home: Path, monkeypatch: pytest.MonkeyPatch, times: float, form: str
):
    facts = fitting.named_facts("starter").facts
    monkeypatch.setattr(cpu, "available_memory", lambda: int(facts.wide_bytes * times))
    monkeypatch.setattr(cpu, "blas", lambda: Path("blas"))
    monkeypatch.setattr(cpu, "blas_at_hand", lambda: True)
    found, loaded = fit("starter"), mlxone.load("starter")
    assert (found.weight_form, found.weights_bytes) == form_and_bytes(loaded)
    if found.weight_form != "stored":  # on a CPU
        assert found.weight_form == form
        assert [word for word in ("float32", "packed") if any(word in note for note in found.notes)]


def test_the_mode_changes_bytes_as_the_facts_say(starter_home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "this_machine", lambda store: machine(kind="cpu"))
    sizes: dict[str, int] = {}
    for mode in ("native", "wide", "packed"):
        monkeypatch.setenv("MLXONE_CPU", mode)
        found = fit("starter")
        sizes[mode] = found.weights_bytes
        assert bool(found.notes) is (mode != "native")
    facts: ModelFacts = fitting.named_facts("starter").facts
    assert (sizes["native"], sizes["wide"]) == (facts.language_bytes, facts.parameters * 4)
    assert sizes["native"] <= sizes["packed"] <= sizes["wide"]
    monkeypatch.setenv("MLXONE_CPU", "narrow")
    with pytest.raises(UsageError, match="MLXONE_CPU is 'narrow'"):
        fit("starter")


def test_a_report_of_facts_is_the_arithmetic(there: None):
    found = fit(SMALL, 1000)
    assert found.total_bytes == Case(SMALL, THERE).needs(Work(1000)).total_bytes


def test_what_was_asked_in_vain_is_said(tmp_path: Path):
    plain, shipped = (write_model(tmp_path / name, "gemma-4-12B") for name in ("plain", "shipped"))
    rows = [{"layer_idx": 5, "bits": 4, "group_size": 64}]
    (shipped / "kv_config.json").write_text(json.dumps(rows))
    said = {f: " ".join(fit(f, kv_quant="config").notes) for f in (plain, shipped)}
    assert "ships no kv_config.json" in said[plain] and "kv_config" not in said[shipped]
    counted = {vision: " ".join(fit(plain, vision=vision).notes) for vision in (False, True)}
    assert "is not counted" in counted[False] and "is not counted" not in counted[True]
