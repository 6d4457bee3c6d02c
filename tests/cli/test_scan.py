"""`scan` over models of true size."""

from __future__ import annotations

import json

import pytest

from mlxone.hub import places
from tests.cli.shelf import cached, refreshed, rows


@pytest.fixture
def models():
    cached("org/one", "gemma-4-12B")
    cached("org/two", "gemma-4-26B-A4B")


def test_scan_reports_places_and_numbers(mlxone, models):
    result = mlxone("scan")
    [row] = [row for row in rows(result.out) if row["SOURCE"] == "huggingface"]
    assert (row["MODELS"], row["FOLDER"]) == ("2", str(places.hf_cache()))
    assert result.err.startswith("2 models, 2 read anew, 0 gone, ")


def test_scan_as_json(mlxone, models):
    report = json.loads(mlxone("scan", "--full", "--json").out)
    assert (report["found"], report["read"], report["removed"], report["problems"]) == (2, 2, 0, [])
    [place] = [place for place in report["sources"] if place["source"] == "huggingface"]
    assert (place["models"], place["formats"]) == (2, {"safetensors": 2})


def test_scan_says_what_is_wrong(mlxone):
    folder = cached("org/m", "gemma-4-e4b")
    next(folder.glob("*.safetensors")).unlink()
    result = mlxone("scan")
    assert result.code == 0
    assert "mlxone: org/m: " in result.err
    assert [p["name"] for p in json.loads(mlxone("scan", "--json").out)["problems"]] == ["org/m"]


def test_scan_counts_what_went(mlxone):
    repo = refreshed()
    assert mlxone("scan").err.startswith("2 models")
    repo.folder.rename(repo.folder.parent / "other")
    assert "0 models, 0 read anew, 2 gone" in mlxone("scan").err


def test_the_disk_is_looked_at_once(mlxone, models, looks):
    assert mlxone("scan").code == 0
    assert looks.count(places.hf_cache()) == 1
