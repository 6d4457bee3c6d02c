from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.hub.match import match, nearest

NAMES = [
    "mlx-community/Qwen3-4B-4bit",
    "mlx-community/Qwen3-4B-8bit",
    "mlx-community/Qwen3-14B-4bit",
    "mlx-community/Qwen3-30B-A3B-4bit",
    "mlx-community/Qwen3.5-4B-MLX-4bit",
    "mlx-community/Mistral-Small-24B-Instruct-2501-4bit",
    "mlx-community/gemma-4-12B-it-4bit",
    "mlx-community/gemma-4-26b-a4b-it-4bit",
    "mlx-community/gemma-4-e4b-it-4bit",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "gpt2",
]

MEANT = {
    # A size is a whole word.
    "4B": ["Qwen3-4B-4bit", "Qwen3-4B-8bit", "Qwen3.5-4B-MLX-4bit"],
    "14b": ["Qwen3-14B-4bit"],
    "12B": ["gemma-4-12B-it-4bit"],
    "a4b": ["gemma-4-26b-a4b-it-4bit"],
    "e4b": ["gemma-4-e4b-it-4bit"],
    "3B": [],
    "8bit": ["Qwen3-4B-8bit"],
    "135M": ["SmolLM2-135M-Instruct"],
    # Case and the way words are joined do not matter.
    "GEMMA4": ["gemma-4-12B-it-4bit", "gemma-4-26b-a4b-it-4bit", "gemma-4-e4b-it-4bit"],
    "gemma-4": ["gemma-4-12B-it-4bit", "gemma-4-26b-a4b-it-4bit", "gemma-4-e4b-it-4bit"],
    "gemma 4 e4b": ["gemma-4-e4b-it-4bit"],
    "qwen-3 14b": ["Qwen3-14B-4bit"],
    "qwen-3 4bit": [],
    "qwen3-4b-8bit": ["Qwen3-4B-8bit"],
    "mlx-community/qwen3-14b-4bit": ["Qwen3-14B-4bit"],
    # Whole words beat parts, and a part cuts no number.
    "qwen3": ["Qwen3-4B-4bit", "Qwen3-4B-8bit", "Qwen3-14B-4bit", "Qwen3-30B-A3B-4bit"],
    "qwen": ["Qwen3-4B-4bit", "Qwen3-4B-8bit", "Qwen3-14B-4bit", "Qwen3-30B-A3B-4bit", "Qwen3.5-4B-MLX-4bit"],
    "qwen3.5": ["Qwen3.5-4B-MLX-4bit"],
    "mistral": ["Mistral-Small-24B-Instruct-2501-4bit", "Mistral-7B-Instruct-v0.3"],
    "smol": ["SmolLM2-135M-Instruct"],
    "smollm": ["SmolLM2-135M-Instruct"],
    "smollm2": ["SmolLM2-135M-Instruct"],
    "gpt": ["gpt2"],
    "gpt2": ["gpt2"],
    "250": [],
    "2501": ["Mistral-Small-24B-Instruct-2501-4bit"],
    # After a colon: what else must be there.
    "gemma4:12b": ["gemma-4-12B-it-4bit"],
    "gemma4:26b": ["gemma-4-26b-a4b-it-4bit"],
    "gemma4:4b": [],
    "qwen3:4bit": ["Qwen3-4B-4bit", "Qwen3-14B-4bit", "Qwen3-30B-A3B-4bit"],
    "qwen3:4b:8bit": ["Qwen3-4B-8bit"],
    "smol:135m": ["SmolLM2-135M-Instruct"],
    # Too little to go by.
    "it": ["gemma-4-12B-it-4bit", "gemma-4-26b-a4b-it-4bit", "gemma-4-e4b-it-4bit"],
    "hi": [],
    "in": [],
    "": [],
    ":": [],
    "...": [],
    "日本": [],
}


@pytest.mark.parametrize(("query", "meant"), MEANT.items(), ids=MEANT)
def test_what_a_query_means(query: str, meant: list[str]):
    assert [name.rpartition("/")[2] for name in match(query, NAMES)] == meant


def test_words_that_only_touch_make_no_number():
    assert match("27b", ["org/Qwen-2-7B"]) == []
    assert match("2-7b", ["org/Qwen-2-7B"]) == ["org/Qwen-2-7B"]


@pytest.mark.parametrize(
    ("query", "name"),
    [("e4b", "org/gemmae4b"), ("4bit", "org/mw4bit"), ("501", "org/m-12501x"), ("125", "org/xm-12501")],
)
def test_a_part_cuts_neither_a_size_nor_a_number(query: str, name: str):
    assert match(query, [name]) == []


def test_a_whole_name_beats_longer_ones():
    names = ["org/model", "org/model-2", "other/model-2-it"]
    assert match("MODEL", names) == ["org/model"]
    assert match("org/model-2", names) == ["org/model-2"]
    assert match("model-2", [*names, "other/Model-2"]) == ["org/model-2", "other/Model-2"]


@given(st.text(max_size=30))
def test_any_query_is_answered(query: str):
    assert set(match(query, NAMES)) <= set(NAMES)


@given(st.sampled_from(NAMES))
def test_a_whole_name_means_itself(name: str):
    assert match(name, NAMES) == [name]
    assert match(name.rpartition("/")[2].lower(), NAMES) == [name]


def test_the_nearest_names():
    assert nearest("quen3-14b", NAMES)[0] == "mlx-community/Qwen3-14B-4bit"
    assert nearest("SmoLM2-135M", NAMES) == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert nearest("zzzz", NAMES) == []
