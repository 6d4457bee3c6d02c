"""`show` over models of true size."""

from __future__ import annotations

import json

import pytest

from mlxone.hub import places
from mlxone.service.fitting import fit
from tests.cli.shelf import cached, quants
from tests.hub.caches import commit
from tests.sparse import write_model

BIG = "mlx-community/gemma-4-12B-it-4bit"


def test_show_says_everything(mlxone):
    folder = cached(BIG, "gemma-4-12B")
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    out = mlxone("show", "12B").out
    for said in (
        BIG,
        str(folder),
        f"{commit(1)} (main) *",
        "gemma4",
        "262144 tokens",
        "1024 tokens",
        "4 bits",
    ):
        assert said in out
    assert "temperature 0.6" in out
    assert "chat template   yes" in out
    assert "model-00001-of-" in out


def test_show_as_json(mlxone):
    folder = cached(BIG, "gemma-4-12B")
    shown = json.loads(mlxone("show", BIG, "--json").out)
    assert shown["revisions"] == [
        {"revision": commit(1), "path": str(folder), "refs": ["main"], "canonical": True}
    ]
    assert {file["name"]: file["size_bytes"] for file in shown["files"]} == {
        path.name: path.stat().st_size for path in folder.iterdir()
    }
    assert sum(layer["count"] for layer in shown["facts"]["layers"]) == 48
    assert shown["chat_template"] is False and shown["kv_config"] is False
    needed = [(need["context_tokens"], need["total_bytes"]) for need in shown["memory"]]
    assert needed == [(tokens, fit(BIG, tokens).total_bytes) for tokens in (8192, 32_768, 131_072)]
    assert mlxone("show", BIG).out.count("\nat ") == 3


def test_show_what_is_not_here(mlxone):
    result = mlxone("show", "org/none")
    assert (result.code, result.out) == (3, "")
    assert "mlxone get org/none" in result.err


def test_show_what_is_damaged(mlxone):
    folder = cached("org/m", "gemma-4-e4b")
    next(folder.glob("*.safetensors")).write_bytes(b"no header")
    result = mlxone("show", "org/m")
    assert result.code == 0
    assert "\nproblem " in result.out and "runs here       no: " in result.out


def test_show_names_other_copies(mlxone, tmp_path):
    cached("org/m", "gemma-4-e4b")
    copy = write_model(tmp_path / "org" / "m", "gemma-4-e4b")
    shown = json.loads(mlxone("show", "org/m", "--model-dir", str(tmp_path), "--json").out)
    assert [c["path"] for c in shown["copies"]] == [str(copy)]


def test_show_lists_the_files_of_a_repo_of_several_models(mlxone):
    repo = quants()
    shown = json.loads(mlxone("show", "org/quants", "--json").out)
    assert (shown["repo"], shown["path"]) == ("org/quants", str(repo.folder / "snapshots" / commit(1)))
    assert shown["files"] == [
        {"name": "m-Q4_0.gguf", "size_bytes": 4},
        {"name": "m-Q8_0.gguf", "size_bytes": 10},
    ]
    assert (shown["copies"], shown["chat_template"]) == ([], None)
    assert [revision["canonical"] for revision in shown["revisions"]] == [True]
    out = mlxone("show", "org/quants/m-Q4_0").out
    assert "m-Q4_0.gguf" in out and "m-Q8_0.gguf" not in out
    assert mlxone("show", f"org/quants@{commit(1)[:12]}").code == 0


@pytest.mark.parametrize(("bits", "said"), [(None, "weights         16 bits"), (4, "quantized       4 bits")])
def test_only_what_is_packed_is_called_quantized(mlxone, tmp_path, bits, said):
    write_model(tmp_path / "m", "Llama-3.3-70B", bits=bits)
    out = mlxone("show", str(tmp_path / "m")).out
    assert f"\n{said}" in out
    assert ("quantized" in out) is (bits is not None)


def test_where_a_model_departs_from_the_published_code(mlxone, tmp_path):
    folder = write_model(tmp_path / "m", "Llama-3.3-70B")
    shown = json.loads(mlxone("show", str(folder), "--json").out)
    assert shown["departures"] == [] and "mlx-lm" not in mlxone("show", str(folder)).out
    config = json.loads((folder / "config.json").read_text())
    departing = config | {"model_type": "mistral", "sliding_window": 4096}
    (folder / "config.json").write_text(json.dumps(departing))
    (said,) = json.loads(mlxone("show", str(folder), "--json").out)["departures"]
    assert said.endswith("sees the last 4,096: differs in texts longer than that")
    assert f"\nas in mlx-lm    {said}\n" in mlxone("show", str(folder)).out
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard-of"}))
    assert json.loads(mlxone("show", str(folder), "--json").out)["departures"] == []


def test_the_disk_is_looked_at_once(mlxone, looks):
    cached("org/m", "gemma-4-e4b")
    assert mlxone("show", "org/m").code == 0
    assert looks.count(places.hf_cache()) == 1
