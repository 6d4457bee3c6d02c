"""`mlxone fit` from end to end: models of true size, a Hub on this machine, exit codes for scripts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mlxone.cli.main import main
from mlxone.fitting.chips import APPLE
from mlxone.fitting.report import FitReport
from mlxone.service import fitting, learning
from mlxone.service.learning import Learned
from tests.cli.conftest import Result
from tests.cli.shelf import cached
from tests.fitting.cases import GB, machine
from tests.hub import conftest as hub_conftest
from tests.hub.conftest import fake_hub as fake_hub  # a fixture: this name is what asks for it
from tests.hub.fake_hub import FakeHub, Fault, refuse
from tests.hub.published import publish
from tests.service.rig import write_folder
from tests.sparse import write_model

ROOT = Path(__file__).parents[2]
MOE, LLAMA = "mlx-community/gemma-4-26B-A4B-it-4bit", "org/Llama-3.3-70B-4bit"
THERE = machine(24 * GB, free=20 * GB, kind="cuda", bandwidth=3e12, flops=9e14)
# What scripts read.
NAMES = {
    "fits", "context_tokens", "weights_bytes", "kv_bytes", "transient_bytes", "total_bytes", "usable_bytes",
    "max_safe_context", "predicted_decode_tps",
}  # fmt: skip


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    cached(MOE, "gemma-4-26B-A4B")
    cached(LLAMA, "Llama-3.3-70B")
    monkeypatch.setattr(fitting, "this_machine", lambda store: THERE)
    # Nothing is downloaded here, and to look through gigabytes of holes for damage takes minutes.
    monkeypatch.setattr(hub_conftest, "nothing_damaged_is_visible", lambda hub: None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        code = main(["fit", *args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def asked(run: Callable[..., Result]) -> Callable[..., dict[str, Any]]:
    """What --json says, held against the exit code."""

    def asked(*args: str) -> dict[str, Any]:
        result = run(*args, "--json")
        assert result.code in (0, 1) and result.err == ""
        found: dict[str, Any] = json.loads(result.out)
        assert (result.code == 0) is found["fits"]
        return found

    return asked


# For scripts ---------------------------------------------------------------------------------


def test_the_names_that_scripts_read(asked):
    found = asked("26B")
    assert set(found) == {*FitReport.__slots__} >= NAMES
    assert found["total_bytes"] == found["weights_bytes"] + found["kv_bytes"] + found["transient_bytes"]
    assert found["fits"] is True and found["total_bytes"] <= found["usable_bytes"] == 24 * GB
    assert found["weights_bytes"] == 25_232_441_344 * 9 // 16 + 171_776 * 2
    assert found["kv_bytes"] == (25 * 1024 * 8 * 512 + 5 * 8192 * 2 * 1024) * 2
    assert found["max_safe_context"] >= found["context_tokens"] == 8192
    assert found["predicted_decode_tps"] > 0


def test_what_does_not_fit(asked):
    found = asked("70B")
    assert found["fits"] is False and found["total_bytes"] > found["usable_bytes"]
    assert found["max_safe_context"] == 0


def test_exit_codes(run, fake_hub: FakeHub):
    assert run("26B").code == 0
    assert run("70B").code == 1
    assert run("26B", "--ctx", "300000").code == 1
    assert run("nonsense").code == 3
    assert run("org/none").code == 3
    assert run("B-A4B", "--ctx", "many").code == 2


# Flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"), [("8192", 8192), ("32k", 32_768), ("32K", 32_768), ("1M", 1 << 20), ("1", 1)]
)
def test_contexts_as_people_write_them(asked, text: str, tokens: int):
    assert asked("26B", "--ctx", text)["context_tokens"] == tokens


def test_a_budget(asked):
    total = asked("26B")["total_bytes"]
    assert asked("26B", "--memory-budget", f"{total / 1e9 + 0.001}")["fits"]
    assert not asked("26B", "--memory-budget", f"{total / 1e9 - 0.001:.6f}GB")["fits"]
    assert asked("70B", "--memory-budget", "80")["usable_bytes"] == 80 * GB
    assert asked("26B", "--memory-budget", "500MB")["usable_bytes"] == 500_000_000


def test_bits_and_the_most_of_them(asked):
    assert asked("26B", "--bits", "8")["weights_bytes"] == 25_232_441_344 * 17 // 16 + 171_776 * 2
    for budget in ("80", "60", "50", "36"):
        best = asked("70B", "--best", "--memory-budget", budget)
        bits = best["best_bits"]
        assert best["fits"] and best == asked("70B", "--bits", str(bits), "--memory-budget", budget) | {
            "best_bits": bits
        }
        wider = {2: 3, 3: 4, 4: 5, 5: 6, 6: 8}.get(bits)
        if wider:
            assert not asked("70B", "--bits", str(wider), "--memory-budget", budget)["fits"]
    none = asked("70B", "--best", "--memory-budget", "10")
    assert none["best_bits"] is None and none["bits"] == 2.0


def test_rows_keys_and_steps(asked):
    one = asked("26B")
    assert asked("26B", "--batch", "3")["kv_bytes"] == 3 * one["kv_bytes"]
    assert asked("26B", "--kv-quant", "8")["kv_bytes"] == one["kv_bytes"] * 17 // 32
    assert asked("26B", "--kv-quant", "4")["kv_bytes"] == one["kv_bytes"] * 9 // 32
    assert asked("26B", "--prefill-step", "128")["transient_bytes"] < one["transient_bytes"]
    assert asked("26B", "--vision")["weights_bytes"] - one["weights_bytes"] == 8 * 4 * 1152**2 * 2


def test_keys_as_the_models_own_config_says(asked):
    folder = cached("org/with-config", "Llama-3.3-70B")
    rows = [{"layer_idx": i, "bits": 4, "group_size": 64} for i in range(80)]
    (folder / "kv_config.json").write_text(json.dumps(rows))
    assert asked("with-config", "--kv-quant", "config")["kv_bytes"] == 8192 * 80 * 8 * 256 * 9 // 16
    assert asked("with-config")["kv_bytes"] == 8192 * 80 * 8 * 256 * 2


@pytest.mark.parametrize(
    "args",
    [
        ("--ctx", "0"), ("--ctx", "-1"), ("--ctx", "much"), ("--ctx", "1.5k"), ("--ctx", "99999999999"),
        ("--memory-budget", "0"), ("--memory-budget", "-3"), ("--memory-budget", "lots"),
        ("--batch", "0"), ("--batch", "x"), ("--kv-quant", "3"), ("--prefill-step", "0"),
        ("--bits", "7"), ("--bits", "16"), ("--bits", "0"), ("--bits", "four"),
        ("--best", "--bits", "4"),
        ("--skus", "--best"), ("--skus", "--memory-budget", "10"),
        ("--calibrate", "--ctx", "1k"), ("--calibrate", "--skus"), ("--calibrate", "--plot", "x.svg"),
        ("--calibrate", "--kv-quant", "8"), ("--calibrate", "--batch", "2"), ("--calibrate", "--bits", "4"),
        ("--nonsense",),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_named(run, args: tuple[str, ...]):
    result = run(MOE, *args)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    flags = [arg for arg in args if arg.startswith("--")]
    assert any(flag in result.err for flag in flags)


# Which model ---------------------------------------------------------------------------------


def test_the_argument_or_the_flag(run, asked, monkeypatch: pytest.MonkeyPatch):
    assert asked(MOE) == asked("--model", MOE) == asked("--model", "26B")
    both = run(MOE, "--model", LLAMA)
    assert both.code == 2 and MOE in both.err and LLAMA in both.err
    monkeypatch.setenv("MLXONE_MODEL", "70B")
    assert asked()["model"] == LLAMA
    assert run("").code == 2


def test_an_ambiguous_query_lists_candidates_with_sizes(run):
    cached("org/gemma-4-12B", "gemma-4-12B")
    result = run("gemma")
    assert (result.code, result.out) == (4, "")
    assert f"{MOE} (14.3 GB)" in result.err and "org/gemma-4-12B (6.8 GB)" in result.err


def test_a_model_nobody_has(run, fake_hub: FakeHub):
    result = run("nonsense")
    assert (result.code, result.out) == (3, "") and "matches 'nonsense'" in result.err
    result = run("org/none")
    assert (result.code, result.out) == (3, "") and "org/none is not on the Hub" in result.err


@pytest.mark.parametrize("ranges", [True, False])
def test_a_repo_that_is_not_on_disk(asked, fake_hub: FakeHub, tmp_path: Path, ranges: bool):
    folder = write_model(tmp_path / "m", "gemma-4-12B")
    repo = publish(fake_hub, "org/far", folder)
    shards = [name for name in repo.files if name.endswith(".safetensors")]
    repo.always = {name: Fault(ignore_range=not ranges) for name in shards}
    assert asked("org/far") == asked(str(folder)) | {"model": "org/far"}
    assert set(fake_hub.gets()) == {"config.json", "model.safetensors.index.json", *shards}
    if ranges:  # of 6.7 GB
        assert sum(asked.sent for asked in fake_hub.asked) < 1_500_000
    assert asked("org/far", "--bits", "2")["bits"] == 2.0


def test_gated_and_offline(run, fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repo = publish(fake_hub, "org/far", write_model(tmp_path / "m", "gemma-4-12B"))
    repo.info = refuse(403, "GatedRepo", "Access is restricted")
    result = run("org/far")
    assert (result.code, result.out, result.err.count("\n")) == (8, "", 1)
    assert "org/far is gated" in result.err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("org/far")
    assert result.code == 8 and "HF_HUB_OFFLINE" in result.err
    assert run(MOE).code == 0  # what is here needs no Hub


# For people ----------------------------------------------------------------------------------


def test_in_words(run):
    first, blank, *lines = run("26B").out.splitlines()
    assert (first, blank) == (f"{MOE} on a machine, 8k tokens: fits", "")
    said = {line[:14].strip(): line[14:].strip() for line in lines}
    assert list(said) == [
        "weights", "layer states", "transients", "total", "context", "speed", "note",
    ]  # fmt: skip
    assert said["weights"] == "14.2 GB  25.2B, 4 bits"
    assert said["layer states"] == "377.5 MB  8,192 tokens"
    assert said["total"].endswith("of 24.0 GB a model may use; 20.0 GB are free now")
    assert re.fullmatch(r"up to [\d,]+ tokens \([\d,]+ now\), made for 262,144", said["context"])
    assert re.match(r"about [\d.e+]+ tokens/s; a prompt of that length at ", said["speed"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["70B"], "does not fit: "),
        (["70B"], "none fits, however short"),
        (["26B", "--ctx", "300k"], "more than the 262,144 the model was made for"),
        (["26B", "--batch", "2"], "8k tokens in 2 conversations: fits"),
        (["26B", "--kv-quant", "4"], "quantized (4)"),
        (["70B", "--memory-budget", "80"], "fits, but not beside what is running now"),
        (["70B", "--best"], "not even with 2 bits"),
        (["26B", "--best"], "with at most 6 bits, for which the figures are"),
    ],
)
def test_verdicts(run, args: list[str], said: str):
    assert said in run(*args).out


def test_a_speed_that_is_not_known_is_not_made_up(run, asked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "this_machine", lambda store: machine(24 * GB, kind="cuda"))
    assert "not known for this chip; `mlxone fit --calibrate` measures it" in run("26B").out
    assert asked("26B")["predicted_decode_tps"] is None


# Other machines ------------------------------------------------------------------------------


def test_skus_as_a_table_and_as_json(run):
    head, *rows = run("70B", "--skus").out.splitlines()
    found = json.loads(run("70B", "--skus", "--json").out)
    columns = ["CHIP", "MEMORY", "BANDWIDTH", "FITS", "NEEDS", "CONTEXT", "TOK/S", "PROMPT TOK/S"]
    assert head.split("\t") == columns
    assert len(rows) == len(found) == sum(len(chip.memory_options) for chip in APPLE)
    assert {sku["chip"] for sku in found} == {chip.label for chip in APPLE}
    for row, sku in zip(rows, found, strict=True):
        chip, memory, bandwidth, fits, needs, context, speed, prompt = row.split("\t")
        assert (chip, memory) == (sku["chip"], f"{sku['memory_gb']} GB")
        assert bandwidth == f"{sku['bandwidth'] / 1e9:.0f} GB/s"
        assert fits == ("yes" if sku["fits"] else "no")
        assert needs == f"{sku['total_bytes'] / 1e9:.1f} of {sku['usable_bytes'] / 1e9:.1f} GB"
        assert bool(context) is bool(sku["max_safe_context"])
        assert bool(speed) is bool(prompt) is sku["fits"]
    assert {sku["fits"] for sku in found if sku["memory_gb"] <= 48} == {False}
    assert {sku["fits"] for sku in found if sku["memory_gb"] >= 96} == {True}
    assert run("70B", "--skus").code == 0  # asked about many machines there is no one answer
    assert not any(sku["fits"] for sku in json.loads(run("70B", "--skus", "--json", "--ctx", "200k").out))


def test_skus_hear_what_is_asked(run):
    def fitting_cells(*args: str) -> int:
        return sum(cell["fits"] for cell in json.loads(run("70B", "--skus", "--json", *args).out))

    usual = fitting_cells()
    assert fitting_cells("--ctx", "128k") < usual < fitting_cells("--bits", "2")
    assert fitting_cells("--batch", "16") < usual
    assert fitting_cells("--ctx", "128k") < fitting_cells("--ctx", "128k", "--kv-quant", "4")


def test_a_picture_of_every_chip(run, tmp_path: Path):
    place = tmp_path / "fit.svg"
    result = run("70B", "--plot", str(place))
    assert (result.code, result.out, result.err) == (0, "", f"drawn: {place}\n")
    root = ElementTree.fromstring(place.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(element.itertext()) for element in root.iter()}
    assert {chip.label for chip in APPLE} <= words
    assert any(LLAMA in word for word in words)
    assert run("70B", "--skus", "--plot", str(place)).out.startswith("CHIP\t")


@pytest.mark.parametrize(("place", "code"), [("none/such/fit.svg", 9), (".", 9), ("", 2)])
def test_a_picture_that_cannot_be_written(run, tmp_path: Path, monkeypatch, place: str, code: int):
    monkeypatch.chdir(tmp_path)
    result = run("70B", "--plot", place)
    assert (result.code, result.out) == (code, "") and "--plot" in result.err


# Calibration ---------------------------------------------------------------------------------


@pytest.fixture
def tiny_model(tmp_path: Path) -> str:
    return str(write_folder(tmp_path / "tiny"))


def test_calibrating_says_what_it_measured(run, tiny_model: str, monkeypatch: pytest.MonkeyPatch):
    def calibrate(model: Any, progress: Callable[[int, int], None]) -> Learned:
        progress(1, 4)
        return Learned(12.34, 567.8, 90_000_000, 2096)

    monkeypatch.setattr(learning, "calibrate", calibrate)
    result = run(tiny_model, "--calibrate")
    assert result.code == 0
    assert result.out == (
        "tiny: 12.3 tokens/s, prompts at 568 tokens/s, transients 90.0 MB at 2,096 tokens\n"
    )
    assert "remembered" in result.err
    found = run(tiny_model, "--calibrate", "--json")
    assert (found.code, found.err) == (0, "")
    assert json.loads(found.out) == {
        "decode_tps": 12.34, "prefill_tps": 567.8, "transient_bytes": 90_000_000, "context_tokens": 2096,
    }  # fmt: skip


def test_a_real_calibration_ends_in_a_prediction(run, tiny_model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()  # this very machine, and its store
    monkeypatch.setattr(learning, "ROUNDS", 1)
    measured = json.loads(run(tiny_model, "--calibrate", "--json").out)
    context = str(measured["context_tokens"])
    found = json.loads(run(tiny_model, "--ctx", context, "--json").out)
    assert found["predicted_decode_tps"] == pytest.approx(measured["decode_tps"], rel=0.01)


# Weight --------------------------------------------------------------------------------------


def test_no_question_loads_the_array_library(fake_hub: FakeHub, tmp_path: Path):
    publish(fake_hub, "org/far", write_model(tmp_path / "m", "gemma-4-12B"))
    verbs = [
        ["fit", "26B"], ["fit", "26B", "--json", "--best"], ["fit", "70B", "--skus"],
        ["fit", "70B", "--plot", str(tmp_path / "x.svg")], ["fit", "nonsense"], ["fit", "org/far"], ["ls"],
    ]  # fmt: skip
    code = (
        "import json, sys\nfrom mlxone.cli.main import main\n"
        "codes = [main(args) for args in json.loads(sys.argv[1])]\n"
        "loaded = sorted(n for n in sys.modules if n.partition('.')[0] in ('mlx', 'numpy', 'tokenizers'))\n"
        "print(json.dumps([codes, loaded]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(verbs)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    codes, loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    assert [c in (0, 1) for c in codes] == [True, True, True, True, False, True, True]


def test_a_local_question_loads_no_client_of_the_hub():
    code = (
        "import sys\nfrom mlxone.cli.main import main\nmain(['fit', '26B'])\n"
        "sys.exit(bool({'huggingface_hub', 'mlx', 'numpy', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
