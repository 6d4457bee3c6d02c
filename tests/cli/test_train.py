"""The verbs of training from end to end, with a tiny random model as users have theirs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mlxone.cli import train_session
from mlxone.cli.main import main
from mlxone.cli.train_session import Plan, Watcher, resuming
from mlxone.cli.train_view import Lines
from mlxone.core.errors import OutOfMemory
from mlxone.fitting.training import TrainingReport
from mlxone.training import events, run
from mlxone.training.recipe import Recipe
from tests.cli.conftest import Result
from tests.service.rig import write_folder

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"say {n}", "completion": f"{n} it is"} for n in range(12)]
SHORT = ("--iters", "3", "--batch", "2", "--rank", "2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def trained(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert (
        main(["train", model, "--data", str(data), "--adapter-path", str(folder / "a"), "--quiet", *SHORT])
        == 0
    )
    return folder / "a"


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "rows.jsonl")


@pytest.fixture
def go(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def go(*args: str) -> Result:
        capsys.readouterr()
        code = main(args)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return go


# train ---------------------------------------------------------------------------------------


def test_a_run_prints_its_folder_and_says_the_rest_on_stderr(go, model, data, tmp_path):
    out, plot = tmp_path / "out", tmp_path / "loss.svg"
    result = go("train", model, "--data", data, "--adapter-path", str(out), "--plot", str(plot), *SHORT)
    assert (result.code, result.out) == (0, f"{out}\n")
    said = result.err.splitlines()
    assert "data: completion; samples: 11 train, 1 valid;" in result.err
    assert any(line.startswith("sft, lora of rank 2: ") and "3 steps" in line for line in said)
    assert [line.partition(":")[0] for line in said if line.startswith("step 1/3: loss ")] == ["step 1/3"]
    assert "step 3/3: valid loss" in result.err and said[-1] == f"drawn: {plot}"
    assert {"adapters.safetensors", "adapter_config.json", "metrics.jsonl"} <= {p.name for p in out.iterdir()}
    assert len(list(ElementTree.parse(plot).iter())) > 10


def test_one_object_for_scripts_and_going_on(go, model, data, tmp_path):
    out = str(tmp_path / "out")
    found = json.loads(go("train", model, "--data", data, "--adapter-path", out, "--json", *SHORT).out)
    assert (found["path"], found["reason"], found["steps"]) == (out, "done", 3)
    assert found["train_loss"] > 0 and found["valid_loss"] > 0 and found["test_loss"] is None
    again = go("train", model, "--data", data, "--adapter-path", out)
    assert again.code == 2 and "--resume" in again.err and again.out == ""
    rest = ("--resume", "--iters", "5", "--plot", out + ".svg")
    more = go("train", model, "--data", data, "--adapter-path", out, *rest)
    assert (more.code, more.out) == (0, f"{out}\n")
    assert "going on after step 3" in more.err and "step 5/5: loss" in more.err
    assert ElementTree.parse(out + ".svg").find(".//{*}polyline").get("points").count(",") == 5


def test_quiet_is_quiet(go, model, data, tmp_path):
    result = go("train", model, "--data", data, "--adapter-path", str(tmp_path / "o"), "--quiet", *SHORT)
    assert (result.code, result.err) == (0, "")


def test_a_config_and_flags_that_win(go, model, data, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{model}"\ndata = "{data}"\niters = 50\nrank = 2\nadapter-path = "{tmp_path}/o"\n'
    )
    found = json.loads(go("train", "-c", str(config), "--iters", "2", "--json").out)
    assert (found["steps"], found["path"]) == (2, f"{tmp_path}/o")


def test_a_configuration_of_mlx_lm_says_what_it_leaves_to_defaults(go, model, data, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {model}\ntrain: true\ndata: {data}\niters: 1\nlearning_rate: 1e-4\n")
    result = go("train", "--config", str(config), "--adapter-path", str(tmp_path / "o"), "--train")
    assert result.code == 0 and "does not say scale, num_layers" in result.err
    row = json.loads((tmp_path / "o" / "metrics.jsonl").read_text().splitlines()[1])
    assert row["lr"] == 1e-4


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "no data is named"),
        (("--data", ""), "no data is named"),
        (("--data", "x", "--inspect", "y"), "data is named twice"),
        (("--data", "x", "--dry-run", "--plot", "p.svg"), "--plot does not go with --dry-run"),
        (("--inspect", "x", "--resume"), "--resume does not go with --inspect"),
        (("--data", "x", "--plot", "/none/at/all.svg"), "there is no such folder"),
        (("--data", "x", "--report-to", "wandb"), "--report-to is not for mlxone"),
        (("--data", "x", "--trust-remote-code"), "--trust-remote-code is not for mlxone"),
        (("--data", "x", "--lrr", "1"), "no such flag: --lrr (did you mean --lr?)"),
        (("--data", "x", "--rank", "0"), "--rank must be"),
        (("--data", "x", "--method", "ppo"), "one of sft, dpo, orpo"),
        (("--data", "x", "--iters", "1", "--epochs", "1"), "iters and epochs contradict"),
        (("--data", "x", "--resume", "--overwrite"), "--resume and --overwrite contradict"),
        (("--data", "none.jsonl"), "none.jsonl"),
        (("--data", "x", "-c", "none.toml"), "--config none.toml"),
    ],
)  # fmt: skip
def test_complaints_are_one_line_and_name_the_thing(go, model, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = go("train", model, *args)
    assert result.code not in (0, 70) and result.out == ""
    assert words in result.err and result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_models_are_named_as_everywhere(go, data):
    for args in (("one", "--model", "two"), ("--model", "/none/here")):
        assert go("train", *args, "--data", data).code in (2, 3)


# Before a run --------------------------------------------------------------------------------


def test_inspecting(go, model, data):
    plain = go("train", model, "--inspect", data, "--mask-prompt")
    assert (plain.code, plain.err) == (0, "")
    assert "completion data, of which only answers are scored" in plain.out
    assert "[[<s>user: say" in plain.out and "]] " in plain.out or "]]" in plain.out
    assert "train  " in plain.out and "\x1b" not in plain.out
    assert go("train", model, "--data", data, "--inspect", "--mask-prompt").out == plain.out
    found = json.loads(go("train", model, "--inspect", data, "--json").out)
    assert (found["format"], found["scope"]) == ("completion", "full")
    assert [split["rows"] for split in found["splits"]] == [11, 1]
    cut = go("train", model, "--inspect", data, "--max-seq-length", "8")
    assert "longer than the limit" in cut.out or "left out" in cut.out


def test_inspecting_refuses_what_a_run_would(go, model, data, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    assert "preference data" in go("train", model, "--inspect", str(pairs)).out
    masked = go("train", model, "--inspect", str(pairs), "--mask-prompt")
    assert (masked.code, masked.out) == (2, "") and "no use for: mask_prompt" in masked.err
    other = go("train", model, "--inspect", data, "--method", "dpo")
    assert (other.code, other.out) == (15, "") and "dpo needs preferences" in other.err


def test_a_dry_run(go, model, data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    result = go("train", model, "--data", data, "--dry-run", "--adapter-path", str(out))
    assert result.code == 0 and result.out.startswith("training fits") and not out.exists()
    found = json.loads(go("train", model, "--data", data, "--dry-run", "--json").out)
    assert found["fits"] and found["peak_bytes"] == sum(found["parts"].values()) > 0
    small = TrainingReport(
        False, False, 9 * 10**9, 10**9, 10**9, {"weights": 9 * 10**9}, "too much", ("--batch 1",)
    )
    monkeypatch.setattr(run, "check_memory_for", lambda *args, **how: small)
    refused = go("train", model, "--data", data, "--dry-run")
    assert refused.code == 1 and "does not fit: too much" in refused.out and "--batch 1" in refused.out
    assert not json.loads(go("train", model, "--data", data, "--dry-run", "--json").out)["fits"]


# The end of a run ----------------------------------------------------------------------------


def started(*args: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "MLXONE_CPU": os.environ.get("MLXONE_CPU", "")}
    return subprocess.Popen(
        [sys.executable, "-m", "mlxone", "train", *args],
        cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(go, model, data, tmp_path, number, code):
    out = tmp_path / "out"
    process = started(model, "--data", data, "--adapter-path", str(out), "--iters", "1000000", "--rank", "2")
    metrics = out / "metrics.jsonl"
    until(lambda: metrics.exists() and '"train_loss": ' in metrics.read_text().partition("null")[2], process)
    until(lambda: metrics.read_text().count("\n") > 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (code, f"{out}\n")
    assert "stopping: the run is saved first" in stderr
    command = stderr.strip().splitlines()[-1].partition("this goes on: mlxone ")[2]
    assert command == f"train {model} --data {data} --adapter-path {out} --resume"
    done = json.loads(metrics.read_text().splitlines()[-1])["step"]
    result = go(*command.split(), "--iters", str(done + 2), "--json")
    assert json.loads(result.out)["steps"] == done + 2


def test_what_is_not_in_the_recipe_is_said_again():
    plan = Plan("m", "my data.jsonl", {"prompt_feature": "q"}, {"skip_bad": True, "iters": 5})
    assert resuming(plan, Path("a")) == (
        "mlxone train m --data 'my data.jsonl' --adapter-path a --resume --prompt-feature q --skip-bad"
    )
    shown = Plan("m", "d", {}, {"export": "peft", "plot": "l.svg", "rank": 4})
    assert resuming(shown, Path("a")).endswith("--resume --export peft --plot l.svg")


def test_a_run_that_breaks_down_is_drawn_as_far_as_it_went(go, model, data, tmp_path, monkeypatch):
    def train(*args: Any, callbacks: list[Any], **how: Any) -> None:
        callbacks[0](events.Started(Recipe(), 1, 2, 9, 4, 0, tmp_path))
        for step in (1, 2, 3):
            callbacks[0](events.Stepped(step, 1.0 / step, 1e-4, 5, 9.0, 10**9, 1.0, 1.0))
        raise OutOfMemory("no more memory")

    monkeypatch.setattr(run, "train", train)
    plot = tmp_path / "loss.svg"
    result = go("train", model, "--data", data, "--plot", str(plot))
    assert (result.code, result.out) == (OutOfMemory.exit_code, "")
    assert "no more memory" in result.err and ElementTree.parse(plot)


def test_samples_and_tests_are_shown_clean():
    said: list[str] = []
    watcher = Watcher(Lines(said.append))
    watcher(events.Sampled(5, "why?\n", "because\x1b[2J\nof that"))
    watcher(events.Tested(0.5, {"accuracy": 0.75}))
    watcher(events.Prepared("text", {"train": 3, "valid": 0}, 99, 2, {"not JSON": 1}, ("a note",)))
    assert said == [
        "step 5, asked: why?\n  because␛[2J\n  of that", "test loss 0.5000, accuracy 0.75", "a note",
        "data: text; samples: 3 train; 99 tokens to train on",
        "2 samples are longer than --max-seq-length and were cut", "1 row left out: not JSON",
    ]  # fmt: skip


def test_a_save_is_told_once():
    said: list[str] = []
    watcher = Watcher(Lines(said.append))
    for step in (5, 5, 6):
        watcher(events.Saved(step, Path("a")))
    assert said == ["step 5: saved to a", "step 6: saved to a"]


def test_stdin_is_read_as_it_is(monkeypatch):
    monkeypatch.setattr("sys.stdin", sys.__stdin__)
    assert train_session.source(".") == "."
    assert train_session.source("-") is sys.__stdin__.buffer


# What comes after ----------------------------------------------------------------------------


def test_measuring(go, model, data, trained):
    base = json.loads(go("eval", model, "--data", data, "--json", "--quiet").out)
    assert base["samples"] == 12 and base["split"] is None and base["loss"] > 0
    better = json.loads(go("eval", model, "--data", data, "--adapter", str(trained), "--json").out)
    assert better["loss"] < base["loss"] and better["adapter"] == str(trained)
    answered = go("eval", model, "--data", data, "--limit", "2", "--generate", "--mask-prompt")
    assert "exact match   0.0 % (0 of 2)" in answered.out and "in place of '0 it is'" in answered.err
    assert "(completion)" in answered.out


def test_perplexity_of_rows_and_of_a_text(go, model, data, tmp_path, trained):
    assert float(go("perplexity", model, "--data", data).out) > 1
    text = tmp_path / "text.txt"
    text.write_text("word after word " * 40)
    found = json.loads(go("perplexity", model, "--data", str(text), "--max-seq-length", "32", "--json").out)
    assert found["samples"] > 3 and found["tokens"] > 32 * 3
    first = json.loads(go("perplexity", model, "--data", str(text), "--limit", "1", "--max-seq-length", "32", "--json", "--adapter", str(trained)).out)  # noqa: E501  # fmt: skip
    assert (first["samples"], first["tokens"]) == (1, 31)
    assert go("perplexity", model, "--data", str(text), "--split", "test").code == 2
    text.write_text("")
    assert go("perplexity", model, "--data", str(text)).code == 15


def test_fusing(go, model, trained, tmp_path):
    target = tmp_path / "fused"
    result = go("fuse", model, "--adapter", str(trained), "--save-path", str(target))
    assert (result.code, result.out) == (0, f"{target}\n") and "layers changed" in result.err
    again = go("fuse", model, "--adapter", str(trained), "--save-path", str(target))
    assert again.code != 0 and again.err.count("\n") == 1
    found = json.loads(
        go("fuse", model, "--adapter", str(trained), "--save-path", str(tmp_path / "b"), "--json").out
    )
    assert found["linears"] > 0 and found["path"] == str(tmp_path / "b")
    assert go("fuse", model, "--save-path", "x").err.startswith("mlxone: --adapter is needed")
    assert go("fuse", model, "--adapter", "x").err.startswith("mlxone: --save-path is needed")
    assert go("fuse", "--adapter", "x", "--save-path", "y").code == 2


def test_fused_and_mounted_are_equally_good(go, model, data, trained, tmp_path):
    go("fuse", model, "--adapter", str(trained), "--save-path", str(tmp_path / "fused"))
    mounted = json.loads(go("eval", model, "--data", data, "--adapter", str(trained), "--json").out)
    fused = json.loads(go("eval", str(tmp_path / "fused"), "--data", data, "--json").out)
    assert fused["loss"] == pytest.approx(mounted["loss"], rel=1e-4)


def test_what_measuring_has_no_use_for_is_refused(go, model, data, tmp_path):
    pairs, text = tmp_path / "pairs.jsonl", tmp_path / "text.txt"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    text.write_text("word after word")
    for verb, *args in (
        ("eval", "--data", str(pairs), "--mask-prompt"),
        ("eval", "--data", str(pairs), "--sft-scope", "full"),
        ("eval", "--data", data, "--max-seq-length", "1"),
        ("perplexity", "--data", str(text), "--max-seq-length", "1"),
        ("perplexity", "--data", str(text), "--prompt-feature", "q"),
        ("perplexity", "--data", str(text), "--skip-bad"),
    ):
        result = go(verb, model, *args)
        assert (result.code, result.out) == (2, "") and result.err.count("\n") == 1, args
        assert next(arg for arg in reversed(args) if arg.startswith("--")) in result.err
    assert "accuracy" in go("eval", model, "--data", str(pairs)).out


@pytest.mark.parametrize("verb", ["eval", "perplexity"])
def test_measuring_needs_data_and_an_adapter_that_fits(go, model, data, verb, tmp_path):
    assert go(verb, model).code == 2
    missing = go(verb, model, "--data", data, "--adapter", str(tmp_path / "none"))
    assert missing.code not in (0, 70) and missing.err.count("\n") == 1 and missing.out == ""
    nothing = go(verb, model, "--data", data, "--split", "test")
    assert nothing.code == 15 and "has no test rows" in nothing.err


def test_an_adapter_to_start_from_by_its_folder_or_its_file(go, model, data, trained, tmp_path):
    first = []
    for number, named in enumerate((trained, trained / "adapters.safetensors")):
        out = tmp_path / str(number)
        args = ("--resume-adapter-file", str(named), "--iters", "1", "--batch", "2", "--quiet")
        assert go("train", model, "--data", data, "--adapter-path", str(out), *args).code == 0
        first.append((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first[0] == first[1]
    assert go("train", model, "--data", data, "--start-from", str(tmp_path / "none")).code != 0


def test_what_can_be_refused_early_is_refused_before_a_model_is_looked_for(go, data, trained, tmp_path):
    nowhere = str(tmp_path / "no model")
    taken = go("train", nowhere, "--data", data, "--adapter-path", str(trained))
    assert taken.code == 2 and "holds an adapter already" in taken.err
    contradiction = go("train", nowhere, "--data", data, "--method", "sft", "--dpo-beta", "0.2")
    assert contradiction.code == 2 and "dpo_beta" in contradiction.err
    missing = go("train", nowhere, "--data", "no/such.jsonl")
    assert missing.code not in (0, 3, 70) and "no/such.jsonl" in missing.err
