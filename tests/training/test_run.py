"""A run from end to end on a tiny model: the order of its events, its bad ends, what it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.backend.arrays import mx, on_stream
from mlxone.core.errors import (
    AdapterMismatch,
    DataError,
    ModelNotFound,
    OutOfMemory,
    StorageError,
    TrainingFailed,
    UsageError,
)
from mlxone.fitting import machine
from mlxone.models.adapters import Adapter
from mlxone.models.changed import changed_decoder
from mlxone.training import events, foresight, gradients, loop, steps
from mlxone.training.checkpoints import Checkpoint
from mlxone.training.data.source import read
from mlxone.training.events import (
    Event,
    Prepared,
    Sampled,
    Saved,
    Started,
    Stepped,
    Stopped,
    Validated,
)
from mlxone.training.sampling import MOST_TOKENS
from mlxone.training.setup import files_fingerprint
from tests.training import runs
from tests.training.runs import OPTIONS, PAIRS, ROWS, Watch, run

PLAIN: dict[str, Any] = {"iters": 4, "lr": 1e-2, "batch": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.model(tmp_path_factory.mktemp("models") / "tiny")


def test_a_run_tells_what_happens_in_order(model: Path, tmp_path: Path):
    watch = Watch()
    result = run(model, tmp_path / "a", watch, **OPTIONS | {"sample_every": 6, "steps_per_report": 1})
    seen = [(type(e).__name__, e.step) for e in watch if hasattr(e, "step")]
    expected: list[tuple[str, int]] = [("Validated", 0)]
    for step in range(1, 13):
        expected.append(("Stepped", step))
        expected += [("Validated", step)] * (step % 4 == 0)
        expected += [("Sampled", step)] * (step % 6 == 0)
        expected += [("Saved", step)] * (step % 3 == 0)
    assert seen == [*expected, ("Stopped", 12)]
    started, prepared = watch.of(Started)[0], watch.of(Prepared)[0]
    assert (started.steps, started.first_step, started.samples) == (12, 0, 11)
    assert prepared.format == "completion" and prepared.samples == {"train": 11, "valid": 1, "test": 0}
    assert started.total_parameters == mlxone.load(model).decoder.embedding.arrays()[0].size + sum(
        a.size for a in mlxone.load(model).decoder.arrays()[1:]
    )
    assert result.train_loss < watch.losses[1] and result.reason == "done"
    assert result.train_loss == watch.losses[12] and result.valid_loss == watch.of(Validated)[-1].loss
    held = watch.of(Sampled)
    assert held[0].prompt == held[1].prompt in [row["prompt"] for row in ROWS]
    assert all(event.peak_memory > 0 and event.tokens_per_s > 0 for event in watch.of(Stepped))


def test_the_adapter_is_the_model_that_was_validated(model: Path, tmp_path: Path):
    result = run(model, tmp_path / "a", **PLAIN, val_size=0.5, dropout=0.3)
    rows = ROWS.copy()
    data = read(rows, valid_share=0.5, seed=0)
    data.test = []
    found = mlxone.evaluate(model, data, adapter=tmp_path / "a")
    assert found.split == "valid" and found.loss == pytest.approx(result.valid_loss, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_two_halves_of_a_batch_are_a_batch(model: Path, tmp_path: Path):
    whole, halves = Watch(), Watch()
    # Adam would not notice gradients that are twice too large.
    run(model, tmp_path / "a", whole, **PLAIN | {"batch": 4}, optimizer="sgd")
    run(model, tmp_path / "b", halves, **PLAIN, grad_accum=2, optimizer="sgd")
    assert abs(whole.losses[4] - whole.losses[1]) > 1e-3
    assert halves.losses == pytest.approx(whole.losses, rel=1e-5)


def test_reading_late_changes_nothing(model: Path, tmp_path: Path, monkeypatch):
    at_once, late = Watch(), Watch()
    run(model, tmp_path / "a", at_once, **OPTIONS)
    monkeypatch.setattr(loop, "on_cpu", lambda: False)
    run(model, tmp_path / "b", late, **OPTIONS)
    assert late.losses == at_once.losses
    assert runs.metrics(tmp_path / "a") == runs.metrics(tmp_path / "b")


def test_each_report_speaks_of_the_steps_since_the_last(model: Path, tmp_path: Path):
    each, some = Watch(), Watch()
    run(model, tmp_path / "a", each, **PLAIN | {"iters": 5, "method": "orpo"}, data=PAIRS)
    run(model, tmp_path / "b", some, **PLAIN | {"iters": 5, "method": "orpo"}, data=PAIRS, steps_per_report=2)
    assert list(some.losses) == [2, 4, 5]
    # Pairs weigh the same, so the mean over a window is the mean of its means where batches are full.
    assert some.losses[2] == pytest.approx((each.losses[1] + each.losses[2]) / 2, rel=1e-6)
    assert set(each.of(Stepped)[0].extras) == {"accuracy", "margin"}


@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_no_number_keeps_the_last_good_adapter(model: Path, tmp_path: Path, monkeypatch, late):
    """Broken at step 3: what is kept is what step 2 was computed with, known to be good."""
    good = tmp_path / "good"
    run(model, good, **PLAIN | {"iters": 1}, schedule="linear", decay_steps=100)
    real = gradients.loss_and_gradients
    calls: list[int] = []

    def broken(*args, **options):
        calls.append(1)
        measured, slopes = real(*args, **options)
        if len(calls) == 3:
            measured.total = measured.total * math.nan
        return measured, slopes

    monkeypatch.setattr(steps, "loss_and_gradients", broken)
    if late:
        monkeypatch.setattr(loop, "on_cpu", lambda: False)
    watch, path = Watch(), tmp_path / "a"
    with pytest.raises(TrainingFailed, match="the loss of step 3 is not a finite number") as caught:
        run(model, path, watch, **PLAIN | {"iters": 9}, schedule="linear", decay_steps=100)
    assert "--lr" in caught.value.hint and str(path) in caught.value.message
    assert watch[-1] == Stopped(2, "nan", path) and list(watch.losses) == [1, 2]
    kept, expected = (runs.tensors(p / "adapters.safetensors") for p in (path, good))
    assert all(mx.array_equal(kept[name], expected[name]).item() for name in expected)
    assert json.loads((path / "adapter_config.json").read_text())["mlxone"]["step"] == 1
    assert "NaN" not in (path / "metrics.jsonl").read_text()


def test_a_model_that_computes_no_numbers_is_said_before_the_first_step(tmp_path: Path):
    broken = runs.model(tmp_path / "broken")
    weights = runs.tensors(broken / "model.safetensors")
    name = next(n for n in weights if n.endswith("down_proj.weight"))
    mx.save_safetensors(str(broken / "model.safetensors"), weights | {name: weights[name] * math.nan})
    with pytest.raises(TrainingFailed, match="validation loss after step 0 is not a finite number; no step"):
        run(broken, tmp_path / "a", **PLAIN)
    assert not (tmp_path / "a" / "adapters.safetensors").exists()


def test_a_dry_run_says_what_it_takes_and_touches_nothing(model: Path, tmp_path: Path, monkeypatch):
    result = run(model, tmp_path / "a", dry_run=True, **PLAIN)
    assert result.reason == "dry-run" and result.memory.fits and not (tmp_path / "a").exists()
    small, large = (
        run(model, tmp_path / "a", dry_run=True, **PLAIN | {"batch": n}).memory.peak_bytes for n in (1, 8)
    )
    assert small < large
    real = machine.this_machine
    monkeypatch.setattr(
        foresight, "this_machine", lambda *how: replace(real(*how), usable_bytes=(small + large) // 2)
    )
    with pytest.raises(OutOfMemory, match="training does not fit") as caught:
        run(model, tmp_path / "a", **PLAIN | {"batch": 8})
    assert "--batch" in caught.value.hint and not (tmp_path / "a").exists()
    assert not run(model, tmp_path / "a", dry_run=True, **PLAIN | {"batch": 8}).memory.fits
    run(model, tmp_path / "a", **PLAIN | {"batch": 1})


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(model: Path, tmp_path: Path, monkeypatch):
    path = tmp_path / "a"
    saved: dict[str, bytes] = {}
    real = os.replace

    def rename(source, target):
        if saved and Path(target).parent == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", rename)

    def watch(event: Event) -> None:
        if isinstance(event, Saved):
            saved.update({p.name: p.read_bytes() for p in path.iterdir() if p.name != "metrics.jsonl"})

    with pytest.raises(StorageError, match=str(path)):
        run(model, path, watch, **OPTIONS)
    left = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "metrics.jsonl"}
    assert left == saved and Checkpoint.read(path / "state.safetensors").step == 3
    monkeypatch.setattr(os, "replace", real)
    straight, rest = Watch(), Watch()
    run(model, path, rest, resume=True)
    run(model, tmp_path / "b", straight, **OPTIONS)
    assert rest.losses == {step: loss for step, loss in straight.losses.items() if step > 3}


def test_no_memory_is_said_in_words(model: Path, tmp_path: Path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[malloc] Unable to allocate 17179869184 bytes.")

    monkeypatch.setattr(steps, "loss_and_gradients", full)
    with pytest.raises(OutOfMemory, match="Unable to allocate") as caught:
        run(model, tmp_path / "a", **PLAIN)
    assert "--batch" in caught.value.hint


def test_a_watcher_that_raises_ends_the_run_and_lets_the_folder_go(model: Path, tmp_path: Path):
    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        run(model, tmp_path / "a", watch, **PLAIN)
    run(model, tmp_path / "a", overwrite=True, **PLAIN)


def test_preferences_and_their_references(model: Path, tmp_path: Path, monkeypatch):
    watch, path = Watch(), tmp_path / "a"
    options = PLAIN | {"method": "dpo", "iters": 6}
    run(model, path, watch, data=PAIRS, **options)
    assert watch.of(Validated)[0].loss == pytest.approx(math.log(2), abs=1e-6)  # nothing learned yet
    assert watch.losses[1] == pytest.approx(math.log(2), abs=1e-6) and watch.losses[6] < watch.losses[1]
    kept = (path / "references.json").read_text()
    assert len(json.loads(kept)["train"]) == 7
    # Damaged, or another run's: computed anew, to the same numbers. Otherwise never again.
    known = json.loads(kept)
    short, odd, other = known["train"][:-1], [[1.0, math.nan]] * 7, known | {"key": "x"}
    for damage in (
        "{",
        "[]",
        "",
        *(json.dumps(known | {"train": t}) for t in (short, odd)),
        json.dumps(other),
    ):
        (path / "references.json").write_text(damage)
        run(model, path, overwrite=True, data=PAIRS, **options | {"iters": 1})
        assert (path / "references.json").read_text() == kept

    def never(*_: object) -> None:
        raise AssertionError("they were known")

    monkeypatch.setattr("mlxone.training.references.pair_logprobs", never)
    again = Watch()
    run(model, path, again, overwrite=True, data=PAIRS, **options)
    assert again.losses == watch.losses


def test_starting_from_an_adapter(model: Path, tmp_path: Path):
    first, second = Watch(), Watch()
    run(model, tmp_path / "a", first, **PLAIN, rank=3, scale=4.0)
    run(model, tmp_path / "b", second, **PLAIN, start_from=str(tmp_path / "a"))
    assert second.of(Started)[0].recipe.rank == 3 and second.of(Started)[0].recipe.scale == 4.0
    assert second.of(Validated)[0].loss == pytest.approx(first.of(Validated)[-1].loss, rel=1e-6)
    with pytest.raises(AdapterMismatch, match="does not fit: model.layers.0"):
        run(model, tmp_path / "c", **PLAIN, start_from=str(tmp_path / "a"), rank=4)
    with pytest.raises(AdapterMismatch, match="has scale 4"):
        run(model, tmp_path / "c", **PLAIN, start_from=str(tmp_path / "a"), scale=1.0)
    with pytest.raises(UsageError, match="cannot be both where training starts from"):
        run(model, tmp_path / "a", **PLAIN, start_from=f"{tmp_path}/b/../a", overwrite=True)
    with pytest.raises(AdapterMismatch, match="is a lora adapter, not dora"):
        run(model, tmp_path / "c", **PLAIN, start_from=str(tmp_path / "a"), type="dora")
    # Its preferences are measured from where it starts, not from the base.
    watch = Watch()
    run(model, tmp_path / "d", watch, data=PAIRS, **PLAIN, method="dpo", start_from=str(tmp_path / "a"))
    assert watch.of(Validated)[0].loss == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_what_is_written_loads_again(model: Path, tmp_path: Path, kind):
    run(model, tmp_path / "a", **PLAIN, type=kind, val_size=0.2)
    adapter, loaded = Adapter.read(tmp_path / "a"), mlxone.load(model)
    assert adapter.kind == kind
    with on_stream():
        decoder = changed_decoder(loaded.decoder, adapter.changes(loaded.decoder))
        state = decoder.new_state()
        logits = decoder.logits(decoder.hidden(mx.array([[1, 2, 3]]), state))
        assert not mx.allclose(logits, loaded.logits([1, 2, 3])[None]).item()


def test_for_peft_as_well(model: Path, tmp_path: Path):
    run(model, tmp_path / "a", **PLAIN, export="peft")
    ours, peft = Adapter.read(tmp_path / "a"), Adapter.read(tmp_path / "a" / "peft")
    assert peft.format == "peft" and set(peft.paths) == set(ours.paths)
    with pytest.raises(UsageError, match="makes no adapter for peft"):
        run(model, tmp_path / "b", **PLAIN, export="peft", type="full")
    with pytest.raises(UsageError, match="export must be one of"):
        run(model, tmp_path / "b", **PLAIN, export="gguf")


def test_the_test_set_is_measured_at_the_end(model: Path, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in {"train": ROWS[:8], "valid": ROWS[8:10], "test": ROWS[10:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    watch = Watch()
    result = run(model, tmp_path / "a", watch, data=folder, **PLAIN, test=True)
    assert [type(e) for e in watch[-2:]] == [events.Tested, Stopped]
    found = mlxone.evaluate(model, folder, adapter=tmp_path / "a")
    assert found.split == "test" and found.loss == pytest.approx(result.test_loss, rel=1e-5)


def test_one_row_is_enough_to_learn_from(model: Path, tmp_path: Path):
    watch = Watch()
    result = run(model, tmp_path / "a", watch, data=ROWS[:1], **PLAIN)
    assert result.valid_loss is None and watch.of(Validated) == [] and result.train_loss < watch.losses[1]


def test_the_sample_is_what_the_adapter_answers(model: Path, tmp_path: Path):
    watch = Watch()
    run(model, tmp_path / "a", watch, **PLAIN, sample_every=4, sample_prompt="say 1", val_size=0)
    (sampled,) = watch.of(Sampled)
    loaded = mlxone.load(model)
    with on_stream():
        changes = Adapter.read(tmp_path / "a").changes(loaded.decoder)
    loaded = replace(loaded, decoder=changed_decoder(loaded.decoder, changes))
    answer = mlxone.generate(loaded, "say 1", max_tokens=MOST_TOKENS)
    assert sampled.text == "".join(token.text for token in answer) and sampled.prompt == "say 1"
    with pytest.raises(UsageError, match="the prompt is empty"):
        # Refused before the first step, though the sample comes later. An empty text has no tokens.
        run(model, tmp_path / "b", data=[{"text": " x" * 9}], **PLAIN, sample_every=2, sample_prompt="")


def test_packed_rows_learn_the_same_samples(model: Path, tmp_path: Path):
    watch = Watch()
    run(model, tmp_path / "a", watch, **PLAIN | {"batch": 1, "iters": 3}, pack=True, max_seq_length=128)
    assert all(event.tokens <= 128 and event.tokens > 64 for event in watch.of(Stepped))


@pytest.mark.parametrize(
    ("data", "options", "kind", "words"),
    [
        ([], {}, DataError, "no rows"),
        (PAIRS, {}, DataError, "holds preferences"),
        (ROWS, {"method": "dpo"}, DataError, "needs preferences"),
        (ROWS, {"ranc": 8}, UsageError, "no option ranc"),
        (ROWS, {"layers": 99}, UsageError, "99 layers"),
        (ROWS, {"target_modules": "w_proj"}, UsageError, "w_proj"),
        (ROWS, {"start_from": "nowhere"}, (AdapterMismatch, ModelNotFound), "nowhere"),
        ([*ROWS, {"prompt": 3, "completion": "x"}], {}, DataError, "prompt"),
    ],
)
def test_what_cannot_be_done_leaves_no_folder(model: Path, tmp_path: Path, data, options, kind, words):
    with pytest.raises(kind, match=words):
        run(model, tmp_path / "a", data=data, **PLAIN | options)
    assert not (tmp_path / "a").exists()


def test_bad_rows_may_be_left_out(model: Path, tmp_path: Path):
    watch = Watch()
    run(model, tmp_path / "a", watch, data=[*ROWS, {"prompt": 3, "completion": "x"}], skip_bad=True, **PLAIN)
    assert sum(watch.of(Prepared)[0].skipped.values()) == 1


def test_data_that_was_read_before_is_taken_as_it_is(model: Path, tmp_path: Path):
    data = read(ROWS, valid_share=0.0)
    with pytest.raises(UsageError, match="no use for val_size"):
        run(model, tmp_path / "a", data=data, val_size=0.5, **PLAIN)
    with pytest.raises(UsageError, match="no use for features"):
        run(model, tmp_path / "a", data=data, features={"prompt_feature": "q"}, **PLAIN)
    with pytest.raises(DataError, match="has no test set"):
        run(model, tmp_path / "a", data=data, test=True, **PLAIN)
    run(model, tmp_path / "a", data=data, **PLAIN)


def test_where_the_model_itself_reads_less_it_is_said(model: Path, tmp_path: Path):
    limit = mlxone.load(model).context_length
    assert limit is not None
    long, watch = [{"text": "x " * 2 * limit}] * 2, Watch()
    run(model, tmp_path / "a", watch, data=long, iters=1, batch=1, max_seq_length=2 * limit)
    assert any(f"no more than {limit:,} tokens" in note for note in watch.of(Prepared)[0].notes)
    run(model, tmp_path / "b", watch, data=long, iters=1, batch=1, max_seq_length=limit // 2)
    assert not any("no more than" in note for note in watch.of(Prepared)[1].notes)


@pytest.mark.parametrize("share", [0, 0.37, 0.999])
def test_a_model_is_known_by_what_is_in_its_middle_too(tmp_path: Path, share):
    """Those that were tuned from one another may begin and end alike."""
    path = tmp_path / "model.safetensors"
    content = bytearray(range(256)) * 40_000  # 10 MB
    path.write_bytes(content)
    before = files_fingerprint(path)
    start = int(len(content) * share)
    for at in range(start, min(start + 50_000, len(content))):
        content[at] ^= 1
    path.write_bytes(content)
    assert files_fingerprint(path) != before


def test_two_models_are_told_apart(model: Path, tmp_path: Path):
    other = runs.model(tmp_path / "other")
    assert files_fingerprint(other) == files_fingerprint(model)  # the same numbers
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert files_fingerprint(other) != files_fingerprint(model)
