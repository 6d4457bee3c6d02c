"""`load`: what a model is found by, what is read of its folder, and what is missing by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mlxone
from mlxone.core.errors import DamagedModel, HubError, ModelNotFound, UsageError
from mlxone.service.loading import eos_ids
from tests.engine import tiny
from tests.service.rig import EOS, TOKENIZER, write_folder


def answer_of(model: mlxone.Model) -> list[int]:
    return [t.token for t in mlxone.generate(model, "Hi", max_tokens=3, eos_token_ids=())]


def test_by_path_in_every_spelling(folder: Path, monkeypatch: pytest.MonkeyPatch, model: mlxone.Model):
    monkeypatch.chdir(folder.parent)
    for source in (folder, str(folder), "./tiny", "tiny"):
        found = mlxone.load(source)
        assert (found.name, found.path.resolve()) == ("tiny", folder.resolve())
        assert answer_of(found) == answer_of(model)


def test_without_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_MODEL", str(folder))
    assert mlxone.load().path == folder


@pytest.mark.parametrize("source", [None, "starter"])
def test_the_starter(starter_home: Path, source: str | None):
    starter = mlxone.load(source)
    assert starter.name == "starter"
    assert starter.path == starter_home / "starter"
    assert starter.template is not None
    assert starter.tokenizer.eos_id in starter.eos_token_ids
    assert starter.context_length == 2048 or starter.context_length == 8192


def test_a_folder_on_the_hubs_cache(home: Path, monkeypatch: pytest.MonkeyPatch):
    snapshot = home / "huggingface" / "hub" / "models--org--Tiny-1B" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    write_folder(snapshot)
    for query in ("org/Tiny-1B", "tiny-1b"):
        assert mlxone.load(query).name == "org/Tiny-1B"


# What is read ------------------------------------------------------------------------------


def test_the_parts_of_a_folder(tmp_path: Path):
    model = mlxone.load(
        write_folder(tmp_path / "m", generation_config={"temperature": 0.3, "eos_token_id": 5})
    )
    assert model.generation_config == {"temperature": 0.3, "eos_token_id": 5}
    assert model.template.render([{"role": "user", "content": "Hi"}]) == "<s>user: Hi\nassistant:"
    assert model.tokenizer.encode("the") == TOKENIZER.encode("the")
    assert model.eos_token_ids == {5, EOS}


def test_a_model_without_a_template_and_one_given(tmp_path: Path):
    folder = write_folder(tmp_path / "m", tokenizer_config={"eos_token": "</s>"})
    assert mlxone.load(folder).template is None
    own = tmp_path / "own.jinja"
    own.write_text("mine: {{ messages[0].content }}{{ eos_token }}")
    assert mlxone.load(folder, chat_template=own).template.render([{"role": "user", "content": "x"}]) == (
        "mine: x</s>"
    )
    with pytest.raises(UsageError, match="nowhere.jinja"):
        mlxone.load(folder, chat_template=tmp_path / "nowhere.jinja")


def test_weights_are_not_read_before_they_are_needed(tmp_path: Path):
    folder = write_folder(tmp_path / "m")
    model = mlxone.load(folder)
    assert not model.decoder._in_memory
    assert answer_of(model)
    assert model.decoder._in_memory


class Ids:
    """As much of a tokenizer as is asked."""

    def __init__(self, eos_id: int | None) -> None:
        self.eos_id = eos_id


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer", "expected"),
    [
        ({"eos_token_id": 2}, {"eos_token_id": 3}, None, {2}),
        ({"eos_token_id": [2, 7]}, {"eos_token_id": 3}, None, {2, 7}),
        ({"eos_token_id": 0}, {"eos_token_id": 3}, None, {0}),
        ({"eos_token_id": None}, {"eos_token_id": 3}, None, {3}),
        ({}, {"eos_token_id": [3, 4]}, None, {3, 4}),
        ({}, {"eos_token_id": 0}, None, {0}),
        ({}, {}, 9, {9}),
        ({}, {}, 0, {0}),
        ({"eos_token_id": 2}, {}, 9, {2, 9}),
        ({"eos_token_id": []}, {"eos_token_id": 3}, 9, {9}),
        ({}, {}, None, set()),
    ],
)
def test_where_answers_end(generation: Any, config: Any, tokenizer: int | None, expected: set[int]):
    assert eos_ids(config, generation, Ids(tokenizer)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["</s>", 2.0, True, [1, "2"], {"id": 2}, [[2]]])
def test_an_end_that_is_no_id(odd: Any):
    with pytest.raises(DamagedModel, match="^generation_config.json: eos_token_id must be a token id"):
        eos_ids({}, {"eos_token_id": odd}, Ids(None))  # type: ignore[arg-type]
    with pytest.raises(DamagedModel, match="^config.json: eos_token_id must be"):
        eos_ids({"eos_token_id": odd}, {}, Ids(None))  # type: ignore[arg-type]


# What is missing ---------------------------------------------------------------------------


def test_nothing_of_that_name(tmp_path: Path):
    with pytest.raises(ModelNotFound, match="no-such-model"):
        mlxone.load("no-such-model")
    with pytest.raises(ModelNotFound, match="nowhere does not exist"):
        mlxone.load(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match="mlxone get org/model"):
        mlxone.load("org/model")
    with pytest.raises(UsageError):
        mlxone.load("")


def test_no_starter_and_no_network():
    with pytest.raises((ModelNotFound, HubError)) as caught:
        mlxone.load("starter")
    assert caught.value.hint


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(tmp_path: Path, name: str):
    folder = write_folder(tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(DamagedModel, match=name.split(".")[1]) as caught:
        mlxone.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "\xff", '{"eos_token_id": "x"}'])
def test_a_generation_config_that_is_damaged(tmp_path: Path, text: str):
    folder = write_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedModel):
        mlxone.load(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


def test_it_says_where_it_departs_from_the_published_code(tmp_path: Path, model: mlxone.Model):
    config = {**tiny.PLAIN, "model_type": "mistral", "sliding_window": 8}
    (said,) = mlxone.load(write_folder(tmp_path / "m", config)).departures
    assert said.startswith("sees all tokens where the published model sees the last 8")
    assert model.departures == ()
