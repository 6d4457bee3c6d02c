"""What of a folder is the model's, and what is somebody's work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxone.formats.shards import INDEX
from mlxone.hub.own_files import own_files
from tests.sparse import write_model


def own(folder: Path, *names: str, published: bool = True) -> set[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return {path.name for path in own_files(folder, published=published)}


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    + ["special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "merges.txt", "kv_config.json"]
    + ["model.safetensors", "model-00001-of-00002.safetensors", "tokenizer.model", "qwen.tiktoken"]
    + ["preprocessor_config.json", "modules.json"],
)
def test_the_models(tmp_path, name):
    assert own(tmp_path, name, published=False) == {name}


@pytest.mark.parametrize(
    "name",
    ["train.json", "package.json", "results.json", "my_adapters.safetensors", "optimizer.safetensors"]
    + ["xgboost.model", "notes.jinja", "train.py", "data.bin"],
)
def test_somebodys_work(tmp_path, name):
    assert own(tmp_path, "config.json", name) == {"config.json"}


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "NOTICE.txt", "modeling_x.py", ".gitattributes"])
def test_what_is_published_with_a_model_is_its_own_only_in_a_download(tmp_path, name):
    assert own(tmp_path, name) == {name}
    assert own(tmp_path, name, published=False) == set()


def test_weights_that_the_index_names(tmp_path):
    index = {"weight_map": {"a": "part-1.safetensors", "b": "notes.txt", "c": "part-9.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    names = ("part-1.safetensors", "part-2.safetensors", "notes.txt")
    assert own(tmp_path, *names) == {INDEX, "part-1.safetensors"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {"a": "../x.safetensors"}}'])
def test_an_index_that_cannot_be_read_names_nothing(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    assert own(tmp_path, "x.safetensors") == {INDEX}


def test_folders(tmp_path):
    inside = [f"{n}/x" for n in ("1_Pooling", "2_Dense", "3_Normalize", "1_data", "2_experiments", "src")]
    found = own(tmp_path, "additional_chat_templates/a.jinja", *inside)
    assert found == {"1_Pooling", "2_Dense", "3_Normalize", "additional_chat_templates"}


def test_what_makes_it_a_model_comes_first(tmp_path):
    own(tmp_path, "added_tokens.json", "config.json", "model.safetensors")
    assert own_files(tmp_path, published=False)[0].name == "config.json"


# What lies beside a model and is not its own ---------------------------------------------------


def test_a_persons_cache_is_no_note_of_a_download(tmp_path: Path):
    folder = write_model(tmp_path / "home", "Qwen3.5-4B")
    inner = folder / ".cache" / "huggingface"
    (inner / "hub" / "datasets--me--d").mkdir(parents=True)
    (inner / "token").write_text("secret")
    assert folder / ".cache" not in own_files(folder, published=True)
    other = write_model(tmp_path / "download", "Qwen3.5-4B")
    (other / ".cache" / "huggingface" / "download").mkdir(parents=True)
    assert other / ".cache" in own_files(other, published=False)
    elsewhere = write_model(tmp_path / "linked", "Qwen3.5-4B")
    (elsewhere / ".cache").symlink_to(other / ".cache")
    assert elsewhere / ".cache" not in own_files(elsewhere, published=True)


def test_a_folder_is_no_weight_whatever_an_index_says(tmp_path: Path):
    folder = write_model(tmp_path / "m", "Qwen3.5-4B")
    (folder / "work.safetensors").mkdir()
    (folder / "work.safetensors" / "thesis.txt").write_text("mine")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "work.safetensors"}}')
    assert folder / "work.safetensors" not in own_files(folder, published=True)
