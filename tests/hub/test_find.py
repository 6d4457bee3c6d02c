from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import (
    AmbiguousModel,
    DamagedModel,
    MlxoneError,
    ModelNotFound,
    UnsupportedModel,
    UsageError,
)
from mlxone.hub import places, starter
from mlxone.hub.find import Found, default_model, find, looks_like_model, repo_for
from mlxone.hub.names import SHORT_NAMES

Cached = Callable[..., Path]


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return path


# Paths.


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = folder(tmp_path / "my model")
    assert find(str(model)) == Found(model, "my model")
    monkeypatch.chdir(tmp_path)
    assert find("my model").path.samefile(model)
    assert find("./my model/").path.samefile(model)
    monkeypatch.chdir(model)
    assert find(".").name == "my model"


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = folder(tmp_path / "m")
    assert find("~/m") == Found(model, "m")


def test_a_path_beats_a_repo_of_that_name(tmp_path: Path, cached: Cached, monkeypatch: pytest.MonkeyPatch):
    cached("org/model")
    monkeypatch.chdir(tmp_path)
    assert find("org/model").repo == "org/model"
    here = folder(tmp_path / "org" / "model")
    assert find("org/model").path.samefile(here)


def test_paths_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").write_text("")
    (tmp_path / "m.gguf").write_text("")
    for path, error, reason in (
        ("empty", DamagedModel, "has no config.json"),
        ("file.bin", ModelNotFound, "is a file"),
        ("m.gguf", UnsupportedModel, "not run directly yet"),
        ("none", ModelNotFound, "does not exist"),
        ("none.gguf", ModelNotFound, "does not exist"),
    ):
        with pytest.raises(error, match=reason) as e:
            find(str(tmp_path / path))
        assert str(tmp_path / path) in e.value.message
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedModel, match="empty is not a model folder"):
        find("empty")
    with pytest.raises(UsageError):
        find("  ")


def test_a_folder_that_happens_to_be_called_like_a_model(
    tmp_path: Path, cached: Cached, monkeypatch: pytest.MonkeyPatch
):
    cached("org/thing-1B")
    (tmp_path / "thing").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("thing").repo == "org/thing-1B"


# Repos in the cache.


def test_a_repo_id(cached: Cached):
    path = cached("org/model")
    cached("org/model-2")
    assert find("org/model") == Found(path, "org/model", "org/model")
    assert find(" org/model ").path == path
    assert find("ORG/MODEL").path == path  # by query: the whole name, in any case


def test_main_is_what_counts_else_the_last(cached: Cached):
    first, second, third = (cached("org/m", c * 40) for c in "abc")
    for age, path in enumerate((third, first, second)):
        os.utime(path, (1_000 + age, 1_000 + age))
    assert find("org/m").path == second
    cached("org/m", "d" * 40, main="a" * 40)
    assert find("org/m").path == first
    (places.hf_cache() / "models--org--m" / "refs" / "main").write_text("e" * 40)
    assert find("org/m").path == third.with_name("d" * 40)


def test_half_a_download_is_no_model(cached: Cached):
    cached("org/half", "a" * 40, main="a" * 40, config=False)
    with pytest.raises(ModelNotFound):
        find("org/half")
    whole = cached("org/half", "b" * 40)
    assert find("org/half").path == whole


def test_a_revision(cached: Cached):
    old, new = cached("org/m", "a1" * 20), cached("org/m", "b2" * 20, main="b2" * 20)
    (places.hf_cache() / "models--org--m" / "refs" / "v1").write_text("a1" * 20)
    assert find("org/m@v1").path == old
    assert find("org/m@" + "a1" * 20).path == old
    assert find("org/m@b2b2b2b").path == new
    half = cached("org/m", "c3" * 20, config=False)
    outside = half.parent.parent / "elsewhere"
    outside.write_text("a1" * 20)
    with pytest.raises(ModelNotFound, match="org/m@c3c3c3c3c3c3 is not whole on this machine"):
        find("org/m@c3c3c3c")
    for revision in ("b2", "v9", "../elsewhere", str(outside)):
        with pytest.raises(ModelNotFound, match="is not on this machine"):
            find(f"org/m@{revision}")


def test_a_short_name(cached: Cached):
    path = cached(SHORT_NAMES["qwen3:14b"])
    assert find("qwen3:14b") == Found(path, SHORT_NAMES["qwen3:14b"], SHORT_NAMES["qwen3:14b"])
    cached("org/other-qwen3-14b-8bit")
    assert find("Qwen3:14B").path == path  # the name decides, though the query matches two


def test_a_query_must_match_one(cached: Cached):
    cached("org/Qwen3-4B-4bit")
    eight = cached("org/Qwen3-8B-4bit")
    assert find("8b").path == eight
    with pytest.raises(AmbiguousModel) as e:
        find("qwen")
    assert e.value.message == ("'qwen' matches 2 models: org/Qwen3-4B-4bit (4 B), org/Qwen3-8B-4bit (4 B)")


def test_a_long_list_is_cut(cached: Cached):
    for i in range(12):
        cached(f"org/model-{i:02}")
    with pytest.raises(AmbiguousModel, match="org/model-07 .* and 4 more"):
        find("model")


def test_other_things_in_the_cache_are_passed_by(cached: Cached):
    cached("org/model")
    cache = places.hf_cache()
    (cache / "datasets--org--data" / "snapshots" / "x").mkdir(parents=True)
    (cache / "version.txt").write_text("1")
    (cache / "models--org--odd").write_text("a file")
    dangling = cache / "models--org--gone" / "snapshots" / "x"
    dangling.mkdir(parents=True)
    (dangling / "config.json").symlink_to("nowhere")
    assert find("org").repo == "org/model"


# Not found: what to do.


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        (
            "org/none",
            "org/none is not on this machine",
            "download it with `mlxone get org/none`, or add --pull",
        ),
        (
            "qwen3:4b",
            f"qwen3:4b ({SHORT_NAMES['qwen3:4b']}) is not on this machine",
            f"download it with `mlxone get {SHORT_NAMES['qwen3:4b']}`, or add --pull",
        ),
        ("org/m@v2", "org/m@v2 is not on this machine", "download it with `mlxone get org/m --revision v2`"),
        (
            "quen-3",
            "no model on this machine matches 'quen-3'",
            "no model is on this machine yet; `mlxone get ORG/REPO` downloads one",
        ),
    ],
)
def test_the_way_out(query: str, message: str, hint: str):
    with pytest.raises(ModelNotFound) as e:
        find(query)
    assert (e.value.message, e.value.hint) == (message, hint)


def test_near_names_are_shown(cached: Cached):
    cached("org/Qwen3-14B")
    cached("org/Mistral")
    for query, hint in (
        ("quen3-14b", "near it: org/Qwen3-14B"),
        ("zzzzz", "on this machine: org/Mistral, org/Qwen3-14B"),
    ):
        with pytest.raises(ModelNotFound) as e:
            find(query)
        assert e.value.hint == hint


ODD = ["a" * 5000, "~nobody-at-all/x", "\0", "a/\0", "@", "a/b@", ":", "//"]


@given(st.text(max_size=40) | st.sampled_from(ODD))
def test_any_query_is_answered(query: str):
    try:
        find(query)
    except MlxoneError as e:
        assert "\n" not in e.hint
    looks_like_model(query)


# The lone word on a command line.


def test_what_looks_like_a_model(tmp_path: Path, cached: Cached, monkeypatch: pytest.MonkeyPatch):
    cached("org/Thing-1B")
    (tmp_path / "with space").mkdir()
    monkeypatch.chdir(tmp_path)
    for word in (
        "starter",
        "org/none",
        "org/none@v1",
        "qwen3",
        "gemma4:12b",
        "thing",
        "1B",
        "with space",
        ".",
    ):
        assert looks_like_model(word), word
    for word in ("", " ", "hello", "Hi", "thing 1b", "What is org/none?", "a/b/c d", "x" * 10_000, "4B"):
        assert not looks_like_model(word), word


def test_the_repo_that_would_be_downloaded():
    assert repo_for("org/m") == "org/m"
    assert repo_for("Qwen3") == SHORT_NAMES["qwen3"]
    for query in ("./m", "/a/b", "~/m", "a/b/c", "word", "a/b.gguf", "two words/x"):
        assert repo_for(query) is None, query


def test_the_default_is_never_a_guess(home: Path, cached: Cached, monkeypatch: pytest.MonkeyPatch):
    cached("org/only")
    assert default_model() == "starter"
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text('model = "org/from-config"')
    assert default_model() == "org/from-config"
    monkeypatch.setenv("MLXONE_MODEL", "org/from-env")
    assert default_model() == "org/from-env"


def test_starter_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(starter, "starter", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()  # no model, so the name still means ours
    assert find("starter") == Found(tmp_path, "starter")
    folder(tmp_path / "starter" / "starter")
    monkeypatch.chdir(tmp_path / "starter")
    assert find("starter").path == Path("starter")


def test_the_starter_answers_to_its_models_name(home: Path):
    model = folder(places.starter_folder())
    assert find("SmolLM2").path == model
    assert find(starter.REPO).path == model
    for name in starter.REQUIRED:
        (model / name).touch()
    starter.write_manifest(model, "test")
    assert find("starter").path == model
    assert looks_like_model("SmolLM2")


def test_a_config_alone_is_no_model_and_hides_no_whole_one(cached: Cached):
    """What `AutoConfig.from_pretrained` and broken-off downloads leave behind."""
    whole = cached("org/model", "a" * 40)
    cached("org/model", "b" * 40, main="b" * 40, weights=False)
    assert find("org/model").path == whole
    cached("org/other", weights=False)
    with pytest.raises(ModelNotFound, match="mlxone get org/other"):
        find("org/other")


def test_every_shard_of_the_index_must_be_there(cached: Cached):
    model = cached("org/model", weights=False)
    index = model / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    (model / "model-1.safetensors").touch()
    with pytest.raises(ModelNotFound):
        find("org/model")
    (model / "model-2.safetensors").touch()
    assert find("org/model").path == model


def test_what_is_there_and_damaged_is_found(cached: Cached):
    """Whoever reads it says better what is wrong with it."""
    model = cached("org/model")
    (model / "model.safetensors.index.json").write_text("[")
    assert find("org/model") == Found(model, "org/model", "org/model")


def test_models_of_other_programs(home: Path):
    path = folder(home / ".lmstudio" / "models" / "pub" / "Thing-1B")
    assert find("thing-1b") == Found(path, "pub/Thing-1B")  # not known to be on the Hub
    (home / ".lmstudio" / "models" / "pub" / "g").mkdir()
    gguf = home / ".lmstudio" / "models" / "pub" / "g" / "other.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModel, match="other.gguf: GGUF files are not run directly yet"):
        find("pub/g")


def test_a_path_and_the_starter_ask_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = folder(tmp_path / "m")
    prepared = folder(places.starter_folder())
    for name in starter.REQUIRED:
        (prepared / name).touch()
    starter.write_manifest(prepared, "here")

    def opened(*_, **__):
        raise AssertionError("the registry was asked")

    monkeypatch.setattr("mlxone.hub.find.Registry", opened)
    assert find(str(model)).path == model
    assert find("starter").path == prepared
    assert looks_like_model("starter")
    assert looks_like_model(str(model))
    assert not looks_like_model("two words")
    with pytest.raises(AssertionError):
        find("org/m")


def test_a_short_name_is_never_another_model(cached: Cached):
    cached("mlx-community/Qwen3-0.6B-4bit")
    with pytest.raises(ModelNotFound, match="mlxone get mlx-community/Qwen3-4B-4bit"):
        find("qwen3")
    assert find("qwen3:0.6b").repo == "mlx-community/Qwen3-0.6B-4bit"
    assert repo_for("starter") == starter.REPO
