"""`ls` over models of true size."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mlxone.cli import table, terminal
from mlxone.cli.ls import COLUMNS, SORTS
from mlxone.hub import places, registry
from mlxone.hub.entry import Entry
from mlxone.service.fitting import fit
from tests.cli.shelf import cached, rows
from tests.hub.caches import commit
from tests.hub.shelves import settle
from tests.sparse import write_model

BIG, MOE = "mlx-community/gemma-4-12B-it-4bit", "mlx-community/gemma-4-26B-A4B-it-4bit"


@pytest.fixture
def models():
    cached(BIG, "gemma-4-12B")
    cached(MOE, "gemma-4-26B-A4B")


@pytest.fixture
def on_terminal(monkeypatch, mlxone):
    def run(*args, width):
        monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream is sys.stdout)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("NO_COLOR", "1")
        return mlxone(*args)

    return run


def names(result) -> list[str]:
    return [row["MODEL"] for row in rows(result.out)]


def test_a_row_says_what_the_files_say(mlxone, models):
    [row, _] = rows(mlxone("ls").out)
    size = sum(
        file.stat().st_size
        for file in (places.hf_cache() / "models--mlx-community--gemma-4-12B-it-4bit").rglob("snapshots/*/*")
    )
    assert list(row) == [column.title for column in COLUMNS]
    assert row["MODEL"] == BIG
    assert row["SIZE"] == f"{size / 1e9:.1f} GB"
    assert row["BITS"] == "4"
    assert row["CONTEXT"] == "256k"  # 262,144 tokens in its config
    assert 11 < float(row["PARAMS"].removesuffix("B")) < 13
    assert "vision" in row["CAN"].split()


def test_words_of_the_query_need_no_quotes(mlxone, models):
    assert names(mlxone("ls", "gemma", "4", "26B")) == [MOE]


@pytest.mark.parametrize(
    "args", [["nonsense"], ["--embedding"], ["--max-size", "1MB"], ["gemma", "--embedding"]]
)
def test_nothing_found_is_an_answer(mlxone, models, args):
    result = mlxone("ls", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("mlxone: no model") and result.err.count("\n") == 1
    result = mlxone("ls", *args, "--json")
    assert (result.code, json.loads(result.out)) == (1, [])


def test_no_models_at_all_is_no_failure(mlxone):
    result = mlxone("ls")
    assert (result.code, result.out) == (0, "")
    assert result.err == "no models on this machine yet; `mlxone get ORG/REPO` downloads one\n"
    assert mlxone("ls", "--json").out == "[]\n"
    assert mlxone("ls", "gemma").code == 1


def test_filters(mlxone, models):
    assert names(mlxone("ls", "--max-size", "10GB")) == [BIG]
    assert names(mlxone("ls", "--vision")) == [BIG, MOE]
    assert mlxone("ls", "--max-size", "ten").code == 2


def test_only_those_that_run_here(mlxone, models):
    config = cached("org/other", "Llama-3.3-70B") / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mamba9"'))
    assert names(mlxone("ls", "--supported")) == [BIG, MOE]
    assert [row["RUNS"].partition(":")[0] for row in rows(mlxone("ls").out)] == ["yes", "yes", "no"]


def test_sorting(mlxone, models):
    assert names(mlxone("ls", "--sort", "size")) == [MOE, BIG]
    assert names(mlxone("ls", "--sort", "size", "--reverse")) == [BIG, MOE]
    assert mlxone("ls", "--sort", "colour").code == 2


def test_older_revisions_are_shown_when_asked_for(mlxone):
    cached("org/m", "gemma-4-e4b", 1)
    cached("org/m", "gemma-4-e4b", 2)
    assert names(mlxone("ls")) == ["org/m"]
    assert sorted(names(mlxone("ls", "--all-revisions"))) == ["org/m", f"org/m@{commit(1)[:12]}"]


def test_another_folder(mlxone, tmp_path):
    write_model(tmp_path / "mine", "gemma-4-e4b")
    assert names(mlxone("ls", "--model-dir", str(tmp_path))) == ["mine"]
    assert mlxone("ls", "--model-dir", str(tmp_path / "none")).code == 2


def test_json_has_every_field(mlxone, models):
    first = json.loads(mlxone("ls", "--json").out)[0]
    assert set(first) == {*Entry.__slots__, "fits"}
    assert first["repo"] == BIG and isinstance(first["size_bytes"], int)
    assert first["facts"]["context_length"] == 262_144
    assert first["fits"] is fit(BIG).fits


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_terminal_is_never_too_narrow(on_terminal, models, width):
    lines = on_terminal("ls", width=width).out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["MODEL", "SIZE"]


def test_wide_shortens_nothing(on_terminal, models):
    assert MOE in on_terminal("ls", "--wide", width=40).out
    assert MOE not in on_terminal("ls", width=40).out


def test_notices_go_to_stderr(mlxone, models):
    mlxone("ls")
    (places.home() / "registry.sqlite").write_bytes(b"this is no database" * 100)
    result = mlxone("ls")
    assert names(result) == [BIG, MOE]
    assert "registry.sqlite" in result.err


def test_what_a_model_says_cannot_draw_on_the_terminal(mlxone, tmp_path):
    folder = write_model(tmp_path / "evil", "gemma-4-e4b")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "\x1b[31m\tred\n"}))
    for verb in (["ls"], ["show", "evil"], ["scan"]):
        result = mlxone(*verb, "--model-dir", str(tmp_path))
        assert result.out and "\x1b" not in result.out + result.err
    assert len(rows(mlxone("ls", "--model-dir", str(tmp_path)).out)) == 1


def test_wide_letters_take_their_room(on_terminal, tmp_path):
    write_model(tmp_path / "日本語の長い名前のモデル-4bit", "gemma-4-e4b")
    for width in (40, 60, 80):
        lines = on_terminal("ls", "--model-dir", str(tmp_path), width=width).out.splitlines()
        assert max(map(table.display_width, lines)) <= width


def test_ls_never_loads_the_array_library(models):
    code = "import sys; from mlxone.cli.main import main; main(['ls']); sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_reader_that_leaves_early_is_no_failure(models):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "mlxone", "ls"], stdout=gone, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("args", [["gemma"], ["nonsense"], ["--embedding"]])
def test_the_disk_is_looked_at_once(mlxone, models, looks, args):
    mlxone("ls", *args)
    assert looks.count(places.hf_cache()) == 1


def test_the_ways_to_sort_are_the_registrys():
    assert tuple(registry.SORTS) == SORTS


@pytest.mark.parametrize("slow", ["mlxone.models", "mlxone.hub.describe", "huggingface_hub"])
def test_where_nothing_changed_nothing_that_reads_models_is_loaded(mlxone, slow):
    cached("org/m", "gemma-4-e4b")
    settle(places.hf_cache())
    mlxone("ls")
    code = (
        "import sys; from mlxone.cli.main import main; main(['ls', '--json'])\n"
        f"sys.exit(any(name.startswith({slow!r}) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)[0]["repo"] == "org/m"
