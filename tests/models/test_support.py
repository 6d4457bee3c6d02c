from __future__ import annotations

import subprocess
import sys

import pytest

from mlxone.models.support import support

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-5,
}  # fmt: skip


def test_what_runs_has_no_reason_against_it():
    assert support(LLAMA) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba9"}, "architecture 'mamba9' is not supported"),
        ({"model_type": None}, "model_type must be the name of an architecture"),
        ({"num_attention_heads": "x"}, "num_attention_heads must be a whole number"),
    ],
)
def test_what_does_not_says_why_in_one_line(change: dict, reason: str):
    assert reason in support(LLAMA | change)
    assert "\n" not in support(LLAMA | change)


def test_it_is_said_without_mlx():
    code = "import sys, mlxone.service.registry, mlxone.models.support; print('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
