"""`mlxone models`: the table of families, from the code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mlxone.cli.main import main
from mlxone.models.families.about import ABOUT
from mlxone.models.families.table import BY_MODEL_TYPE, FAMILIES


def said(capsys: pytest.CaptureFixture[str], *args: str) -> list[list[str]]:
    assert main(["models", *args]) == 0
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def test_a_row_for_each_family(capsys: pytest.CaptureFixture[str]):
    head, *rows = said(capsys)
    assert head[:3] == ["FAMILY", "MODELS", "MODEL_TYPE"] and len(head) == 9
    assert [row[0] for row in rows] == [family.name for family in FAMILIES]
    assert [row[1] for row in rows] == [ABOUT[family.name].models for family in FAMILIES]
    assert {t for row in rows for t in row[2].split(", ")} == set(BY_MODEL_TYPE)
    assert all(len(row) == len(head) and all(row) for row in rows)


def test_json_says_all(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["family"] for entry in listed] == [family.name for family in FAMILIES]
    gemma2 = next(entry for entry in listed if entry["family"] == "gemma2")
    assert gemma2["departs"][0]["setting"] == "sliding_window"
    assert gemma2["tools"] is False and gemma2["parity"] == "L1" and "4-bit" in gemma2["packings"]


@pytest.mark.parametrize(
    ("name", "family"),
    [("qwen3", "qwen3"), ("kimi_k2", "deepseek_v3"), ("GPT-OSS", "gpt_oss"), ("minicpm5", "llama")],
)
def test_one_by_its_name(capsys: pytest.CaptureFixture[str], name: str, family: str):
    assert [row[0] for row in said(capsys, name)[1:]] == [family]


def test_one_family_also_says_where_it_departs(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "gpt_oss"]) == 0
    assert "truncate: false" in capsys.readouterr().err
    assert main(["models"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [("qwen33", "nearest: qwen3"), ("gemma-4x", "nearest: gemma4"), ("zzzzzz", "known: cohere2, ")],
)
def test_a_wrong_name_lists_the_nearest(capsys: pytest.CaptureFixture[str], name: str, words: str):
    assert main(["models", name]) == 2
    out, error = capsys.readouterr()
    assert out == "" and f"no family or model_type {name!r}" in error and words in error
    assert error.count("\n") == 1


def test_a_name_of_any_length(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "x\n" * 10**5]) == 2
    assert len(capsys.readouterr().err) < 1500


def test_no_mlx_is_loaded():
    code = "import sys; from mlxone.cli.main import main; main(['models']); print('mlx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nFalse\n")
