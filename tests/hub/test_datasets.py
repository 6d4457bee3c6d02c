from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import DataError, HubError, MlxoneError, UsageError
from mlxone.hub import datasets, places
from mlxone.hub.datasets import DataFile, Wanted, choose, parse
from mlxone.hub.repo import plan_of_dataset
from mlxone.training.data.source import fetch, read
from tests.hub.fake_hub import FakeHub, Fault, Repo, refuse
from tests.hub.seen import Seen

NAME = "org/words"
KEY = f"datasets/{NAME}"


def lines(count: int, word: str = "text") -> bytes:
    return "".join(json.dumps({"text": f"{word} {at}"}) + "\n" for at in range(count)).encode()


FILES = {
    "README.md": b"about",
    ".gitattributes": b"",
    "dataset_infos.json": b"{}",
    "data/train.jsonl": lines(300),  # large enough to come from the second host
    "data/validation.jsonl": lines(3),
}


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[KEY] = Repo(dict(FILES))
    return fake_hub.repos[KEY]


def snapshot(commit: str = "a" * 40) -> Path:
    return places.hf_cache() / "datasets--org--words" / "snapshots" / commit


def refusal(source: str) -> str:
    with pytest.raises(MlxoneError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# On the way ------------------------------------------------------------------------------


def test_a_dataset_is_fetched_into_the_standard_cache(repo: Repo, fake_hub: FakeHub):
    data = read(NAME)
    assert (len(data.train), len(data.valid), data.format) == (300, 3, "text")
    assert data.train[0].place == "data/train.jsonl:1"
    assert sorted(fake_hub.gets()) == ["train.jsonl", "validation.jsonl"]
    assert (snapshot() / "data/train.jsonl").read_bytes() == FILES["data/train.jsonl"]
    assert (snapshot().parent.parent / "refs/main").read_text() == "a" * 40
    assert (snapshot() / "data/train.jsonl").is_symlink()


def test_the_hubs_own_client_finds_it_there(repo: Repo):
    from huggingface_hub import hf_hub_download

    read(NAME)
    known: Any = {"repo_type": "dataset", "cache_dir": places.hf_cache(), "local_files_only": True}
    path = hf_hub_download(NAME, "data/train.jsonl", **known)
    assert Path(path).read_bytes() == FILES["data/train.jsonl"]


def test_what_is_in_the_cache_asks_nobody(repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    first = read(NAME)
    fake_hub.forget()
    assert read(NAME).train == first.train
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read(NAME).train == first.train
    assert fake_hub.log == []


def test_a_cut_download_is_gone_on_with_and_not_taken_for_whole(repo: Repo, fake_hub: FakeHub):
    repo.files["data/train-00000-of-00002.jsonl"] = repo.files.pop("data/train.jsonl")
    repo.files["data/train-00001-of-00002.jsonl"] = lines(200, "more")
    repo.get["data/train-00001-of-00002.jsonl"] = refuse(403)
    with pytest.raises(HubError):
        read(NAME)
    assert datasets.cached(Wanted(NAME)) is None
    repo.get.clear()
    assert len(read(NAME).train) == 500


def test_shards_that_another_tool_left_out_are_fetched(repo: Repo, fake_hub: FakeHub):
    for at in range(2):
        repo.files[f"data/train-0000{at}-of-00002.jsonl"] = lines(2, str(at))
    del repo.files["data/train.jsonl"]
    read(NAME)
    (snapshot() / "data/train-00001-of-00002.jsonl").unlink()
    fake_hub.forget()
    assert len(read(NAME).train) == 4
    assert fake_hub.log != []


def test_a_line_that_goes_dead_is_survived(repo: Repo):
    repo.faults["data/train.jsonl"] = [Fault(cut=500)]
    assert len(read(NAME).train) == 300


def test_a_revision_is_another_snapshot(repo: Repo, fake_hub: FakeHub):
    repo.revisions = ("main", "v2")
    read(f"{NAME}@v2")
    assert (snapshot().parent.parent / "refs/v2").read_text() == "a" * 40
    assert not (snapshot().parent.parent / "refs/main").exists()
    fake_hub.forget()
    read(f"{NAME}@v2")
    read(f"{NAME}@{'a' * 40}")
    assert fake_hub.log == []
    assert "has no revision 'v3'" in refusal(f"{NAME}@v3")
    assert "'../x' is not a revision" in refusal(f"{NAME}@../x")


def test_a_model_of_the_same_name_is_another_repo(repo: Repo, fake_hub: FakeHub):
    fake_hub.repos[NAME] = Repo({"config.json": b"{}"})
    read(NAME)
    assert [path.name for path in places.hf_cache().glob("*--*")] == ["datasets--org--words"]


def test_a_dataset_in_one_piece_is_split(repo: Repo):
    repo.files = {"alpaca.json": json.dumps([{"text": "a"}] * 20).encode()}
    data = read(NAME)
    assert (len(data.train), len(data.valid)) == (18, 2)


def test_offline_and_not_in_the_cache(repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refusal(NAME)
    assert said.startswith("org/words is no file or folder here, and HF_HUB_OFFLINE is set")
    assert fake_hub.log == []


def test_a_mistyped_path_is_said_where_the_hub_cannot_be_asked(monkeypatch: pytest.MonkeyPatch):
    def down(*_: Any, **__: Any) -> None:
        raise HubError("the Hub cannot be reached: no route", hint="check the network")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(datasets, "plan_of_dataset", down)
    said = refusal(NAME)
    assert said.startswith("org/words is no file or folder here, and the Hub cannot be reached: no route")
    assert said.endswith("(check the path; check the network)")


def test_an_unknown_name_is_neither_here_nor_there(fake_hub: FakeHub):
    said = refusal("org/nothing")
    assert said.startswith(
        "org/nothing is no file or folder here, and on the Hub: dataset org/nothing is not"
    )
    assert fake_hub.log == ["GET /api/datasets/org/nothing"]


def test_parquet_without_its_reader_is_refused_before_it_is_fetched(
    repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    repo.files = {"data/train-00000-of-00001.parquet": b"PAR1" * 1_000}
    with pytest.raises(UsageError, match="pyarrow"):
        read(NAME)
    assert fake_hub.gets() == []


def test_a_plan_of_a_dataset_asks_once(repo: Repo, fake_hub: FakeHub):
    plan = plan_of_dataset(NAME, None, lambda names: [name for name in names if name == "README.md"])
    assert (plan.kind, plan.folder, [file.name for file in plan.files]) == (
        "dataset",
        snapshot(),
        ["README.md"],
    )
    assert fake_hub.log == [f"GET /api/{KEY}"]


def test_a_download_can_be_watched(repo: Repo, fake_hub: FakeHub):
    seen = Seen()
    fetch(NAME, seen)
    assert seen.history[-1] == seen.total == len(FILES["data/train.jsonl"] + FILES["data/validation.jsonl"])
    fake_hub.forget()
    assert len(read(NAME).train) == 300
    assert fake_hub.log == []


# Which files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/name", Wanted("org/name")),
        ("org/name:main@v1.0", Wanted("org/name", "main", "v1.0")),
        ("org/name@refs/convert/parquet", Wanted("org/name", None, "refs/convert/parquet")),
        ("name", None),
        ("a/b/c", None),
        ("../name", None),
        ("./name", None),
        ("org/", None),
        ("", None),
        ("/org/name", None),
    ],
)
def test_names(text: str, wanted: Wanted | None):
    assert parse(text) == wanted


def chosen(*names: str, config: str | None = None) -> dict[str, str | None]:
    return {file.name: file.split for file in choose(names, Wanted(NAME, config))}


CHOICES: dict[str, tuple[tuple[str, ...], dict[str, str | None]]] = {
    "at the top": (("train.jsonl", "test.jsonl"), {"train.jsonl": "train", "test.jsonl": "test"}),
    "shards": (
        (
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/dev-00000-of-00001.parquet",
        ),
        {
            "data/dev-00000-of-00001.parquet": "valid",
            "data/train-00000-of-00002.parquet": "train",
            "data/train-00001-of-00002.parquet": "train",
        },
    ),
    "folders": (
        ("default/train/0000.parquet", "default/train/0001.parquet", "default/validation/0000.parquet"),
        {
            "default/train/0000.parquet": "train",
            "default/train/0001.parquet": "train",
            "default/validation/0000.parquet": "valid",
        },
    ),
    "two forms": (("train.jsonl", "train.parquet"), {"train.jsonl": "train"}),
    "by the way": (("train.json", "notes.json", "dataset_infos.json"), {"train.json": "train"}),
    "prefixed": (("my_train.jsonl", "my-Test.jsonl"), {"my_train.jsonl": "train", "my-Test.jsonl": "test"}),
    "no splits": (("alpaca.json",), {"alpaca.json": None}),
    "not meant as data": (("a.json", "dataset_infos.json", ".cache/b.json"), {"a.json": None}),
    "its own name first": (("train_runs/test.jsonl",), {"train_runs/test.jsonl": "test"}),
    "default first": (("train.jsonl", "extra/train.jsonl"), {"train.jsonl": "train"}),
    "only one": (("main/train.jsonl",), {"main/train.jsonl": "train"}),
    "no word": (("constrained.jsonl",), {"constrained.jsonl": None}),
}


@pytest.mark.parametrize(("names", "files"), CHOICES.values(), ids=CHOICES)
def test_the_files_of_a_dataset(names: tuple[str, ...], files: dict[str, str | None]):
    assert chosen(*names) == files


def test_a_configuration_may_be_named():
    names = ("main/train.jsonl", "other/train.jsonl")
    assert chosen(*names, config="other") == {"other/train.jsonl": "train"}


@pytest.mark.parametrize(
    ("names", "config", "said"),
    [
        (
            ("a/train.jsonl", "b/train.jsonl"),
            None,
            "several configurations: a, b (choose one, as in org/words:a)",
        ),
        (("a/train.jsonl",), "c", "has no configuration c (it has a)"),
        (
            ("train_sft.jsonl", "train_prefs.jsonl"),
            None,
            "more than one train set: train_prefs.jsonl, train_sft.jsonl",
        ),
        (("a.json", "b.json"), None, "more than one data set: a.json, b.json"),
        (("x.csv", "README.md"), None, "has no data file that can be read"),
        ((), None, "it is empty"),
    ],
)
def test_what_cannot_be_decided_is_said(names: tuple[str, ...], config: str | None, said: str):
    with pytest.raises(DataError) as caught:
        chosen(*names, config=config)
    assert said in str(caught.value)


def test_the_order_of_shards_is_that_of_their_names():
    names = [f"train-0000{at}-of-00003.jsonl" for at in (2, 0, 1)]
    files: Any = choose(names, Wanted(NAME))
    assert files == tuple(DataFile(name, "train") for name in sorted(names))
