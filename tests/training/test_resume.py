"""Going on exactly: whatever ended a run and wherever, the rest computes what it would have computed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.backend.arrays import mx
from mlxone.core.errors import AdapterNotFound, DamagedModel, UsageError
from mlxone.models.adapters import Adapter
from mlxone.training.checkpoints import Checkpoint
from mlxone.training.events import Started, Stopped
from mlxone.training.folder import RunFolder
from tests.training import runs
from tests.training.runs import OPTIONS, PAIRS, ROWS, Watch, run

ROOT = Path(__file__).parents[2]
SECONDS = 120  # for a child; only a hang takes this long


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run's folder."""
    path = tmp_path_factory.mktemp("whole") / "a"
    run(model, path, **OPTIONS)
    return path


def same_result(one: Path, other: Path) -> bool:
    assert runs.metrics(one) == runs.metrics(other)
    for name in ("adapters.safetensors", "state.safetensors"):
        mine, theirs = runs.tensors(one / name), runs.tensors(other / name)
        assert mine.keys() == theirs.keys()
        assert all(mx.array_equal(mine[n], theirs[n]).item() for n in mine), name
    return True


@pytest.mark.parametrize("calls", range(16))
def test_told_to_stop_at_any_question_it_goes_on_exactly(model: Path, whole: Path, tmp_path: Path, calls):
    watch, path = Watch(), tmp_path / "a"
    first = run(model, path, watch, should_stop=runs.after(calls), **OPTIONS)
    assert first.reason == "asked" and watch[-1] == Stopped(first.steps, "asked", path)
    rest = Watch()
    second = run(model, path, rest, resume=True)
    assert second.reason == "done" and second.steps == 12
    assert rest.of(Started)[0].first_step == first.steps
    assert same_result(path, whole)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "dpo", "grad_accum": 2, "batch": 1},
        {"type": "dora", "optimizer": "adafactor", "grad_clip": 0.1},
        {"type": "full", "optimizer": "sgd", "pack": True, "max_seq_length": 64},
        {"rank_scaling": "by_bits", "lora_plus": 8.0, "grad_checkpoint": True, "epochs": 1.5},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_whatever_the_recipe(model: Path, tmp_path: Path, options):
    base = {"lr": 1e-2, "batch": 2, "save_every": 3}
    base |= {} if "epochs" in options else {"iters": 7}
    data = PAIRS if options.get("method") == "dpo" else ROWS
    run(model, tmp_path / "a", data=data, **base | options)
    run(model, tmp_path / "b", data=data, should_stop=runs.after(5), **base | options)
    run(model, tmp_path / "b", data=data, resume=True)
    assert same_result(tmp_path / "a", tmp_path / "b")


def test_killed_at_any_moment_it_loses_at_most_what_was_not_saved(model: Path, whole: Path, tmp_path: Path):
    """A real process, killed again and again until one of them reaches the end."""
    path, draw, kills = tmp_path / "a", random.Random(6), 0
    while True:
        resume = ["resume"] if (path / "state.safetensors").exists() else []
        command = [sys.executable, "-m", "tests.training.runs", str(model), str(path), *resume]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        try:
            most = draw.randint(1, 4) if kills < 4 else 99
            for lines, line in enumerate(child.stdout, 1):
                assert int(line) % 2 == 0
                if lines == most:
                    child.send_signal(signal.SIGKILL)
                    kills += 1
                    break
            rest = child.communicate(timeout=SECONDS)[0]
        finally:
            child.kill()
        assert rest is not None
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert kills >= 2
    assert same_result(path, whole)


def test_longer_where_the_schedule_stays(model: Path, tmp_path: Path):
    constant = {"lr": 1e-2, "batch": 2}
    long, parts = Watch(), Watch()
    run(model, tmp_path / "a", long, iters=8, **constant)
    run(model, tmp_path / "b", parts, iters=5, **constant)
    run(model, tmp_path / "b", parts, resume=True, iters=8)
    assert parts.losses == long.losses
    with pytest.raises(UsageError, match="has done 8 steps already"):
        run(model, tmp_path / "b", resume=True, iters=7)
    done = Watch()
    run(model, tmp_path / "b", done, resume=True)
    assert done.losses == {} and done[-1] == Stopped(8, "done", tmp_path / "b")


def test_another_run_is_refused_by_what_differs(model: Path, whole: Path, tmp_path: Path):
    def refused(words: str, **more) -> None:
        with pytest.raises(UsageError, match=words):
            run(more.pop("model", model), whole, resume=True, **more)

    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    refused("made with another data", data=ROWS[1:])
    refused("made with lr 0.01, not 0.02", lr=0.02)
    refused("the cosine schedule would have been another", iters=24)
    refused("export must be", export="x")
    refused("contradict each other", overwrite=True)
    refused("contradict each other", overwrite=True, dry_run=True)
    other = runs.model(tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    refused("made with another model", model=other)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before


def test_a_part_of_the_recipe_may_be_said_again(model: Path, tmp_path: Path):
    """By itself, too, where it would make no sense without the rest."""
    options: dict[str, Any] = {"method": "dpo", "dpo_beta": 0.2, "schedule": "linear", "lr_end": 1e-6}
    run(model, tmp_path / "a", data=PAIRS, iters=2, batch=2, **options)
    run(model, tmp_path / "a", data=PAIRS, resume=True, dpo_beta=0.2, lr_end=1e-6)
    with pytest.raises(UsageError, match="made with dpo_beta 0.2, not 0.3"):
        run(model, tmp_path / "a", data=PAIRS, resume=True, dpo_beta=0.3)
    with pytest.raises(UsageError, match="made with lr_end 1e-06, not 0.1"):
        run(model, tmp_path / "a", data=PAIRS, resume=True, lr_end=0.1)


def test_samples_can_be_switched_off(model: Path, tmp_path: Path):
    run(model, tmp_path / "a", iters=2, sample_every=2, sample_prompt="hi")
    run(model, tmp_path / "a", resume=True, iters=3, sample_every=0)
    with pytest.raises(UsageError, match="without sample_every there is no use for: sample_prompt"):
        run(model, tmp_path / "a", resume=True, iters=4, sample_every=0, sample_prompt="ho")


def test_what_a_run_started_from_must_still_be_there(model: Path, tmp_path: Path):
    run(model, tmp_path / "a", iters=1)
    run(model, tmp_path / "b", iters=1, start_from=str(tmp_path / "a"))
    run(model, tmp_path / "b", iters=2, resume=True)
    (tmp_path / "a").rename(tmp_path / "c")
    with pytest.raises(AdapterNotFound, match="is not there") as caught:
        run(model, tmp_path / "b", iters=3, resume=True)
    assert str(tmp_path / "a") in caught.value.message


def test_what_was_exported_stays_up_to_date(model: Path, tmp_path: Path):
    path = tmp_path / "a"
    run(model, path, export="peft", should_stop=runs.after(4), **OPTIONS)
    before = (path / "peft" / "adapter_model.safetensors").read_bytes()
    run(model, path, resume=True)
    assert (path / "peft" / "adapter_model.safetensors").read_bytes() != before
    run(model, path, overwrite=True, **OPTIONS)
    assert list((path / "peft").iterdir()) == []  # the other run's is no one's now


def test_a_validation_is_told_once(model: Path, whole: Path, tmp_path: Path):
    """Stopped within the last one; what is on the disk does not say that it was done after that."""
    path = tmp_path / "a"
    assert run(model, path, should_stop=runs.after(15), **OPTIONS).reason == "asked"
    for _ in range(2):
        run(model, path, resume=True)
        assert same_result(path, whole)


def test_what_was_read_is_not_held_beside_what_becomes_of_it(model: Path, tmp_path: Path, monkeypatch):
    run(model, tmp_path / "a", iters=1)
    read, found = Checkpoint.read, list[Checkpoint]()

    def reading(path: Path) -> Checkpoint:
        found.append(read(path))
        return found[-1]

    monkeypatch.setattr(Checkpoint, "read", reading)
    run(model, tmp_path / "a", iters=2, resume=True)
    assert len(found) == 1 and not found[0].params and not found[0].optimizer


def test_nobody_else_goes_on_with_it_meanwhile(model: Path, tmp_path: Path, monkeypatch):
    """It is held before its state is read, not only before it is written."""
    run(model, tmp_path / "a", iters=1)
    read = Checkpoint.read

    def reading(path: Path) -> Checkpoint:
        with pytest.raises(UsageError, match="another run is writing"):
            RunFolder(tmp_path / "a", resume=True)
        return read(path)

    monkeypatch.setattr(Checkpoint, "read", reading)
    run(model, tmp_path / "a", iters=2, resume=True)


def test_a_damaged_state_is_said(model: Path, tmp_path: Path):
    run(model, tmp_path / "a", iters=1)
    (tmp_path / "a" / "state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(DamagedModel, match="state.safetensors is damaged"):
        run(model, tmp_path / "a", resume=True)


def test_from_an_adapter_whose_arrays_lie_otherwise_in_memory(model: Path, tmp_path: Path):
    """Ranks that differ are filled up in the file: what is taken from it are slices."""
    ranks: dict[str, Any] = {"rank": 8, "rank_scaling": "by_bits", "lr": 1e-2, "iters": 4}
    packed = runs.packed_model(tmp_path / "packed")
    run(packed, tmp_path / "a", **ranks)
    found = Adapter.read(tmp_path / "a").params(mlxone.load(packed).decoder)
    shapes = {name.split(".")[-2]: a.shape[1] for name, a in found.items() if name.endswith("lora_a")}
    assert (shapes["q_proj"], shapes["v_proj"], shapes["down_proj"]) == (4, 8, 16)
    on: dict[str, Any] = {
        "start_from": str(tmp_path / "a"),
        "rank_scaling": "by_bits",
        "rank": 8,
        "iters": 6,
        "lr": 1e-2,
    }
    run(packed, tmp_path / "b", **on)
    run(packed, tmp_path / "c", should_stop=runs.after(3), **on)
    run(packed, tmp_path / "c", resume=True)
    assert same_result(tmp_path / "b", tmp_path / "c")
