"""The real starter: it answers, from Python and as a command, and it computes what mlx-lm computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.backend import cpu
from mlxone.backend.arrays import mx
from mlxone.core.words import ChatRequest, Message
from mlxone.service.answer import prompt_ids
from tests.e2e import beside

ROOT = Path(__file__).parents[2]
QUESTION = "Name the capital of France."
PROMPTS = [
    QUESTION,
    "Write a haiku about the sea.",
    "What is 17 + 25? Think step by step.",
    "Translate to German: the cat sleeps on the warm stone. 日本 🙂",
    "def fibonacci(n):\n    # complete this function",
]


@pytest.fixture(scope="module")
def starter(starter_folder: Path) -> mlxone.Model:
    return mlxone.load(starter_folder)


def ids_for(model: mlxone.Model, prompt: str) -> list[int]:
    return prompt_ids(model, ChatRequest(messages=(Message("user", prompt),)))


# It answers --------------------------------------------------------------------------------


def test_it_knows_the_capital_of_france(starter: mlxone.Model):
    generation = mlxone.generate(starter, QUESTION, max_tokens=40)
    text = "".join(t.text for t in generation)
    assert "Paris" in text
    stats = generation.stats
    assert stats.finish_reason == "stop"
    assert stats.prompt_tokens == len(ids_for(starter, QUESTION))
    assert text == starter.tokenizer.decode(stats.cache_tokens[stats.prompt_tokens :])


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlxone", "run", *args],
        capture_output=True, text=True, encoding="utf-8", cwd=ROOT, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


@pytest.mark.usefixtures("starter_home")
def test_it_answers_as_a_command():
    child = run("--model", "starter", "--temperature", "0", "--max-tokens", "40", "--quiet", QUESTION)
    assert (child.returncode, child.stderr) == (0, "")
    assert "Paris" in child.stdout
    assert child.stdout.endswith("\n")


@pytest.mark.usefixtures("starter_home")
def test_it_answers_in_json_and_with_no_model_named(starter: mlxone.Model):
    """Flags before the model's own generation_config.json before the built-in values."""
    child = run("--json", "--temperature", "1.5", "--seed", "7", "--max-tokens", "5", "--prompt", QUESTION)
    assert child.returncode == 0
    said: dict[str, Any] = json.loads(child.stdout)
    top_p = starter.generation_config["top_p"]
    generation = mlxone.generate(starter, QUESTION, max_tokens=5, temperature=1.5, top_p=top_p, seed=7)
    tokens = list(generation)
    assert said["text"] == "".join(t.text for t in tokens)
    assert said["tokens"] == [t.token for t in tokens]
    assert said["finish_reason"] == generation.stats.finish_reason == "length"
    assert said["stats"]["prompt_tokens"] == generation.stats.prompt_tokens
    assert said["stats"]["generated_tokens"] == 5


# It is exact -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(starter_folder: Path) -> Any:
    if cpu.blas() is None:
        pytest.skip("weights are widened on a Linux CPU with OpenBLAS; tests/parity has the rest")
    return beside.widened(starter_folder)


@pytest.fixture(scope="module")
def ours(theirs: Any, starter_folder: Path) -> mlxone.Model:
    """As `auto` chooses where there is memory enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLXONE_CPU", "wide")
        return mlxone.load(starter_folder)


@pytest.mark.parametrize("sizes", [(16, 9, 1, 1, 1), (1, 30)])
def test_logits_equal_mlx_lm_in_float32(theirs: Any, ours: mlxone.Model, sizes: tuple[int, ...]):
    ids, state, chunks = ids_for(ours, PROMPTS[3]), ours.new_state(), []
    for size in sizes:
        chunks.append(ids[:size])
        ids = ids[size:]
    for chunk, expected in zip(chunks, beside.logits(theirs, chunks), strict=True):
        got = ours.forward(chunk, state)
        assert got.dtype == expected.dtype == mx.float32
        assert mx.array_equal(got, expected)


def assert_same_text(theirs: Any, ours: mlxone.Model, prompt: str, count: int) -> None:
    ids = ids_for(ours, prompt)
    tokens = [t.token for t in mlxone.generate(ours, ids, max_tokens=count, eos_token_ids=())]
    assert tokens == beside.greedy(theirs, ids, count)


def test_greedy_text_equals_mlx_lm(theirs: Any, ours: mlxone.Model):
    assert_same_text(theirs, ours, PROMPTS[1], 24)


@pytest.mark.long
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_mlx_lm_at_length(theirs: Any, ours: mlxone.Model, prompt: str):
    assert_same_text(theirs, ours, prompt, 64)
