from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from mlxone.core.errors import DamagedModel, ModelNotFound, UsageError
from mlxone.hub import contents, places
from mlxone.hub.registry import Registry
from tests.hub.shelves import afresh, model, names, repo, repo_folder, settle, without_times
from tests.sparse import write_model


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which folders are looked into, by their last name."""
    seen: list[str] = []
    original = contents.look

    def look(source, folder, depth):
        seen.append(os.path.basename(folder))
        return original(source, folder, depth)

    monkeypatch.setattr(contents, "look", look)
    return seen


# What a row says.


def test_a_model_in_the_cache(home: Path):
    path = repo("org/Model-4B", parameters=4_000_000_000, quantization={"group_size": 64, "bits": 4})
    [entry] = Registry().list()
    assert (entry.repo, entry.path, entry.source, entry.format) == (
        "org/Model-4B",
        path,
        "huggingface",
        "safetensors",
    )
    assert (entry.revision, entry.canonical, entry.problem, entry.support) == ("c" * 40, True, None, None)
    assert entry.facts.parameters == 4_000_000_000
    assert entry.facts.context_length == 4096
    assert entry.size_bytes == sum(f.stat().st_size for f in path.iterdir()) > 8_000_000_000
    assert entry.name == "org/Model-4B"


def test_the_columns_can_be_asked_in_sql():
    import sqlite3

    repo("org/m", parameters=500)
    Registry().scan()
    with sqlite3.connect(places.home() / "registry.sqlite") as db:
        row = db.execute(
            "SELECT type, parameters, layers, hidden, vocab, context, language_bytes, bits FROM models"
        ).fetchone()
    db.close()
    assert row == ("llama", 500, 2, 64, 100, 4096, 1000, 16.0)


def test_models_of_true_size_are_read_by_their_headers(home: Path, tmp_path: Path):
    """Not one byte of 100 GB: the kernel counts what is read."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("only Linux counts what a process reads")
    write_model(tmp_path / "models" / "org" / "Llama-70B", "Llama-3.3-70B", bits=None)
    registry = Registry(folders=[tmp_path / "models"])
    before = _bytes_read(counter)
    [entry] = registry.list()
    assert entry.size_bytes > 100e9
    assert entry.problem is None
    assert _bytes_read(counter) - before < 2_000_000


def _bytes_read(counter: Path) -> int:
    return int(counter.read_text().split()[1])


# Which snapshot a repo's name means.


def test_main_is_meant_else_the_last_that_can_be_used():
    old, new = repo("org/m", "a" * 40), repo("org/m", "b" * 40, main=False)
    assert [(e.path, e.canonical) for e in Registry().list(all_revisions=True)] == [(old, True), (new, False)]
    assert names(Registry().list()) == ["org/m"]
    (repo_folder("org/m") / "refs" / "main").unlink()
    os.utime(old, (2e9, 2e9))
    assert Registry().resolve("org/m").path == old
    os.utime(new, (2.1e9, 2.1e9))
    assert Registry().resolve("org/m").path == new
    (new / "model.safetensors").unlink()
    assert Registry().resolve("org/m").path == old
    assert Registry().resolve("org/m@aaaaaaa").path == old
    assert [e.name for e in Registry().list(all_revisions=True)] == ["org/m", "org/m@bbbbbbbbbbbb"]


def test_what_is_not_whole_has_a_problem(tmp_path: Path):
    repo("org/no-weights")
    (repo_folder("org/no-weights") / "blobs" / "model.safetensors-cccccccc").unlink()
    whole = repo("org/no-config")
    (whole / "config.json").unlink()
    shards = repo("org/no-shard")
    (shards / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    cut = repo("org/cut-off")
    with (cut / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    odd = repo("org/odd", num_attention_heads="many")
    problems = {e.repo: e.problem for e in Registry().list()}
    assert problems["org/no-weights"] == "incomplete: no safetensors weights are there"
    assert problems["org/no-config"] == "incomplete: config.json is missing"
    assert problems["org/no-shard"] == "incomplete: model-1.safetensors and 1 more files are missing"
    assert "header is cut off" in problems["org/cut-off"] or "file ends before" in problems["org/cut-off"]
    assert str(odd) in problems["org/odd"]
    assert "num_attention_heads" in problems["org/odd"]
    with pytest.raises(ModelNotFound, match="org/no-shard is not whole on this machine: model-1") as e:
        Registry().resolve("org/no-shard")
    assert e.value.hint == "`mlxone get org/no-shard` fetches the rest"
    with pytest.raises(DamagedModel, match="org/odd cannot be used: .*num_attention_heads"):
        Registry().resolve("odd")


# Only what changed is read.


def test_a_second_look_reads_nothing(looks: list[str], home: Path):
    for name in ("org/a", "org/b"):
        repo(name)
    settle(home)
    first = Registry().scan()
    assert (first.found, first.read, first.removed) == (2, 2, 0)
    looks.clear()
    second = Registry().scan()
    assert (second.found, second.read, second.removed) == (2, 0, 0)
    assert looks == [] or set(looks) <= {"models", "model-dir", "starter"}  # folders that are not there
    assert Registry().scan(full=True).read == 2


def test_one_change_is_one_look(looks: list[str], home: Path):
    for name in ("org/a", "org/b", "org/c"):
        repo(name)
    settle(home)
    Registry().scan()
    repo("org/b", "d" * 40)
    settle(home)
    looks.clear()
    report = Registry().scan()
    assert (report.found, report.read, report.removed) == (4, 2, 0)
    assert [name for name in looks if name.startswith("models--")] == ["models--org--b"]
    shutil.rmtree(repo_folder("org/a"))
    settle(home)
    report = Registry().scan()
    assert (report.found, report.read, report.removed) == (3, 0, 1)
    assert names(Registry().list()) == ["org/b", "org/c"]
    assert Registry().scan().removed == 0


def test_what_is_young_is_looked_at_again(looks: list[str]):
    """Its clock may stand still while it changes once more."""
    repo("org/a")
    Registry().scan()
    looks.clear()
    Registry().scan()
    assert "models--org--a" in looks


def test_a_file_written_in_place_is_seen(home: Path, tmp_path: Path):
    place = model(tmp_path / "dir" / "org" / "m")
    registry = Registry(folders=[tmp_path / "dir"])
    settle(home, tmp_path)
    assert registry.list()[0].facts.context_length == 4096
    model(place, max_position_embeddings=8192)
    settle(home, tmp_path)
    assert registry.list()[0].facts.context_length == 8192


def test_what_could_not_be_read_is_tried_again(monkeypatch: pytest.MonkeyPatch, home: Path):
    """Permission comes back without any file's time changing."""
    path = repo("org/m")
    settle(home)
    from mlxone.core.errors import StorageError

    def refused(folder, config):
        raise StorageError(f"{folder}: cannot be read: permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("mlxone.hub.describe.read_facts", refused)
        assert Registry().list()[0].problem == f"{path}: cannot be read: permission denied"
    assert Registry().list()[0].problem is None


# Several sources.


def test_the_first_source_is_meant(home: Path, tmp_path: Path):
    model(home / ".lmstudio" / "models" / "org" / "m")
    model(tmp_path / "mine" / "org" / "other")
    registry = Registry(folders=[tmp_path / "mine"])
    assert [(e.repo, e.source) for e in registry.list()] == [
        ("org/m", "lmstudio"),
        ("org/other", "model-dir"),
    ]
    inside = repo("org/m")
    assert registry.resolve("org/m").path == inside
    assert [e.source for e in registry.list("m", all_revisions=True)] == ["huggingface", "lmstudio"]
    (inside / "model.safetensors").unlink()
    assert registry.resolve("org/m").source == "lmstudio"  # the first one that is of use


def test_a_folder_that_was_given_once_is_not_there_the_next_time(tmp_path: Path):
    model(tmp_path / "mine" / "m")
    assert names(Registry(folders=[tmp_path / "mine"]).list()) == ["m"]
    assert Registry().list() == []
    assert Registry(folders=[tmp_path / "mine"]).scan().read <= 1


def test_a_folder_in_two_sources_counts_once(home: Path):
    model(home / ".lmstudio" / "models" / "org" / "m")
    registry = Registry(folders=[home / ".lmstudio" / "models" / "org"])
    assert len(registry.list(all_revisions=True)) == 1


def test_folders_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        Registry(folders=[tmp_path / "nowhere"])
    monkeypatch.setenv("MLXONE_MODEL_DIR", str(tmp_path / "unplugged"))
    registry = Registry()
    assert registry.list() == []
    assert registry.notices == [f"model folder {tmp_path / 'unplugged'} is not there"]


def test_a_source_that_vanished_is_forgotten(tmp_path: Path):
    import sqlite3

    model(tmp_path / "mine" / "m")
    Registry(folders=[tmp_path / "mine"]).scan()
    shutil.rmtree(tmp_path / "mine")
    Registry().scan()
    with sqlite3.connect(places.home() / "registry.sqlite") as db:
        assert db.execute("SELECT path FROM models").fetchall() == []
    db.close()


# Lists.


def test_filters_and_orders():
    repo("org/small", vision_config={"a": 1})
    repo("org/large-4B", parameters=4_000_000, max_position_embeddings=100)
    repo("org/broken", num_hidden_layers=-1)
    registry = Registry(judge=lambda config: "" if "vision_config" in config else "no such family")
    assert names(registry.list()) == ["org/broken", "org/large-4B", "org/small"]
    assert names(registry.list(sort="size"))[0] == "org/large-4B"
    assert names(registry.list(sort="params"))[0] == "org/large-4B"
    assert names(registry.list(sort="context"))[0] == "org/small"
    assert len(registry.list(sort="recent")) == 3
    assert names(registry.list("4b")) == ["org/large-4B"]
    assert names(registry.list(capabilities=["vision"])) == ["org/small"]
    assert names(registry.list(capabilities=["vision", "tools"])) == []
    assert names(registry.list(max_size=10_000)) == ["org/broken", "org/small"]
    assert names(registry.list(supported=True)) == ["org/small"]
    assert {e.repo: e.support for e in registry.list()} == {
        "org/broken": None,
        "org/large-4B": "no such family",
        "org/small": "",
    }
    with pytest.raises(UsageError, match="no such capability: smell"):
        registry.list(capabilities=["smell"])
    with pytest.raises(UsageError, match="cannot sort by 'age'"):
        registry.list(sort="age")


def test_a_model_is_judged_once(home: Path):
    repo("org/m")
    settle(home)
    asked = []

    def judge(config):
        asked.append(config["model_type"])
        return ""

    for _ in range(3):
        assert Registry(judge=judge).list()[0].support == ""
    assert asked == ["llama"]


def test_another_version_of_the_program_judges_anew(home: Path, monkeypatch: pytest.MonkeyPatch):
    repo("org/m")
    settle(home)
    assert Registry(judge=lambda config: "not yet").list()[0].support == "not yet"
    monkeypatch.setattr("mlxone.hub.schema.__version__", "99")
    registry = Registry(judge=lambda config: "")
    assert registry.list()[0].support == ""
    assert registry.notices == []


# One model.


def test_by_path(tmp_path: Path):
    inside = repo("org/m")
    outside = model(tmp_path / "my model")
    registry = Registry(judge=lambda config: "")
    assert registry.resolve(str(inside)).repo == "org/m"
    settle(tmp_path, inside.parents[3])
    registry.scan()
    assert registry.get(inside) == registry.resolve("org/m")
    entry = registry.resolve(str(outside))
    assert (entry.repo, entry.path, entry.source, entry.support) == ("my model", outside, "path", "")
    assert registry.get(outside) is None
    with pytest.raises(ModelNotFound, match="does not exist"):
        registry.resolve(str(tmp_path / "none"))
    with pytest.raises(UsageError):
        registry.resolve(" ")


def test_the_starter():
    with pytest.raises(ModelNotFound, match="starter .* is not on this machine"):
        Registry().resolve("starter")
    cached = repo("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert Registry().resolve("starter").path == cached
    prepared = model(places.starter_folder())
    assert Registry().resolve("starter").path == prepared
    assert Registry().resolve("smollm2").path == cached


def test_the_starter_of_the_program_hides_a_prepared_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepared = model(places.starter_folder())
    settle(prepared)
    assert [entry.path for entry in Registry().refresh()] == [prepared]
    # One version, the next, an earlier one again, and a program without: each sees its own, once.
    for number in (1, 2, 1):
        monkeypatch.setattr(places, "BUNDLED", tmp_path / f"runtime-{number}" / "mlxone_starter")
        bundled = model(places.BUNDLED)
        settle(bundled)
        found = Registry().refresh()
        assert [(entry.path, entry.source) for entry in found] == [(bundled, "starter")]
        assert [entry.path for entry in Registry().scan().entries] == [bundled]
        assert Registry().resolve("starter").path == bundled
    shutil.rmtree(tmp_path / "runtime-1")
    assert [entry.path for entry in Registry().scan().entries] == [prepared]


# Threads.


def test_threads_share_a_registry(home: Path, tmp_path: Path):
    for i in range(20):
        repo(f"org/m-{i:02}")
    registry, expected, found = Registry(), afresh(tmp_path), []

    def work():
        for _ in range(5):
            found.append(without_times(registry.list(all_revisions=True)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    assert all(each == expected for each in found)
    assert registry.notices == []


def test_several_models_of_a_repo_know_their_repo(tmp_path: Path):
    snapshot = repo_folder("org/q") / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    folder = tmp_path / "pub" / "q"
    folder.mkdir(parents=True)
    for place in (snapshot, folder):
        for name in ("m-Q4.gguf", "m-Q8.gguf"):
            (place / name).write_bytes(b"GGUF")
    (tmp_path / "pub" / "lone").mkdir()
    (tmp_path / "pub" / "lone" / "lone.gguf").write_bytes(b"GGUF")
    settle(tmp_path, places.hf_cache())
    registry = Registry(folders=[tmp_path])
    assert [(e.repo, e.part, e.repo_id) for e in registry.list()] == [
        ("org/q/m-Q4", "m-Q4", "org/q"),
        ("org/q/m-Q8", "m-Q8", "org/q"),
        ("pub/lone", "", "pub/lone"),
        ("pub/q/m-Q4", "m-Q4", "pub/q"),
        ("pub/q/m-Q8", "m-Q8", "pub/q"),
    ]
    assert [e.part for e in Registry(folders=[tmp_path]).list()] == [e.part for e in registry.list()]
    assert registry.match("pub/q").path == folder
    (snapshot / "m-Q4.gguf").write_bytes(b"")
    with pytest.raises((DamagedModel, ModelNotFound)) as e:
        registry.resolve("org/q")
    assert "org/q" in e.value.message


def test_half_a_model_of_several_is_fetched_by_its_repos_id():
    snapshot = repo_folder("org/q") / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in ("m-Q4-00001-of-00002.gguf", "m-Q8.gguf"):
        (snapshot / name).write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound) as e:
        Registry().resolve("org/q/m-Q4")
    assert e.value.hint == "`mlxone get org/q` fetches the rest"


def test_one_blob_in_two_snapshots_is_found_by_the_name_that_was_said():
    blob = repo_folder("org/q") / "blobs" / "b"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    links = []
    for commit in ("a" * 40, "b" * 40):
        links.append(repo_folder("org/q") / "snapshots" / commit / "m.gguf")
        links[-1].parent.mkdir(parents=True)
        links[-1].symlink_to("../../blobs/b")
    assert [Registry().match(str(link)).path for link in links] == links
