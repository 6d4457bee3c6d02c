from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import DataError, HubError, MlxoneError, StorageError
from mlxone.training.data.source import read
from tests.training.data.kit import MODEL, USER, write_jsonl

CHAT = {"messages": [USER, MODEL]}
ASKED = {"prompt": "Q", "completion": "A"}
TEXT = {"text": "some words"}
CHOICE = {"prompt": "Q", "chosen": "yes", "rejected": "no"}
FORMATS = {"messages": CHAT, "completion": ASKED, "text": TEXT, "preference": CHOICE}


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {at}"} for at in range(count)]


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(MlxoneError) as caught:
        read(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_the_rows_say_their_format(tmp_path: Path, format: str):
    write_jsonl(tmp_path / "train.jsonl", [FORMATS[format]] * 3)
    data = read(tmp_path)
    assert (data.format, len(data.train)) == (format, 3)
    assert data.train[1].value == FORMATS[format]
    assert data.train[1].place == "train.jsonl:2"
    assert data.notes[0] == f"train.jsonl: {format}, 3 rows"


def test_other_keys_are_named_and_left_out():
    data = read([{**TEXT, "id": 7, "completion": None}, TEXT])
    assert data.train[0].value == TEXT
    assert data.notes[0] == "the data: text, 2 rows (not used: id)"
    assert read([{**CHOICE, **CHAT}]).notes[0] == "the data: preference, 1 row (not used: messages)"


def test_mlx_lms_names_for_keys_are_understood():
    features = {"prompt_feature": "question", "completion_feature": "answer"}
    data = read([{"question": "Q", "answer": "A"}] * 2, features=features)
    assert (data.format, data.train[0].value) == ("completion", ASKED)
    assert read([{"chat": CHAT["messages"]}], features={"chat_feature": "chat"}).format == "messages"
    assert read([{"body": "x"}], features={"text_feature": "body"}).train[0].value == {"text": "x"}
    assert "body" in refusal([TEXT], features={"text_feature": "body"})
    assert "txt_feature is no feature" in refusal([TEXT], features={"txt_feature": "body"})


def test_the_first_row_decides_between_formats_that_a_row_could_have():
    both = {**TEXT, **ASKED}
    assert read([TEXT, both], valid_share=0).train[1].value == TEXT
    assert read([both, ASKED], valid_share=0).format == "completion"


def test_two_formats_in_one_set_are_named_with_their_places(tmp_path: Path):
    write_jsonl(tmp_path / "train.jsonl", [CHAT, CHAT])
    write_jsonl(tmp_path / "valid.jsonl", [CHAT, TEXT])
    said = refusal(tmp_path, skip_bad=True)
    assert said.startswith("train.jsonl:1 is messages data and valid.jsonl:2 is text data")


BAD = {
    "misspelt": (
        {"prompt": "Q", "completions": "A"},
        "no `completion`: its `completions`, did you mean `comp",
    ),
    "misspelt alone": ({"message": []}, "its `message`, did you mean `messages`?"),
    "no partner": ({"chosen": "x", "prompt": "Q"}, "there is no `rejected`, only `chosen`, `prompt`"),
    "other keys": (
        {"a": 1, "b": 2},
        "`messages`, `prompt` and `completion`, `text`, or `prompt`, `chosen` and",
    ),
    "null": ({"text": None}, "its `text` is null"),
    "no keys": ({}, "the row is empty"),
    "number": ({"text": 7}, "`text` must be text, not a number"),
    "object": ({"prompt": {}, "completion": "A"}, "`prompt` must be text, not an object"),
    "blank": ({"text": " \n"}, "`text` is empty"),
    "no completion": ({"prompt": "Q", "completion": ""}, "`completion` is empty"),
    "no turns": ({"messages": []}, "`messages` is empty"),
    "turns as text": ({"messages": "Hi"}, "`messages` must be a list of messages, not text"),
    "a turn as text": ({"messages": ["Hi"]}, "`messages`, message 1 must be an object, not text"),
    "no role": ({"messages": [{"content": "x"}]}, "message 1 has no `role` that is a word, only `content`"),
    "role misspelt": ({"messages": [{"rol": "user", "content": "x"}]}, "(is `rol` meant?)"),
    "role number": (
        {"messages": [USER, {"role": 1, "content": "x"}]},
        "message 2 has no `role` that is a word",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "message 1 (user) has no `content`"),
    "content number": (
        {"messages": [{"role": "user", "content": 1}]},
        "`content` must be text, not a number",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
        "parts of text only, not a part of type 'image'",
    ),
    "calls": (
        {"messages": [{"role": "assistant", "tool_calls": "x"}]},
        "`tool_calls` must be a list of objects",
    ),
    "tools": ({**CHAT, "tools": "[]"}, "`tools` must be a list of objects, not text"),
    "same": ({"prompt": "Q", "chosen": "x", "rejected": "x"}, "`chosen` and `rejected` are the same"),
    "answers alone": ({"chosen": "x", "rejected": "y"}, "only answers, and there is no `prompt`"),
    "unlike": ({"prompt": "Q", "chosen": "x", "rejected": CHAT["messages"]}, "one is not"),
    "no answer": (
        {"chosen": [USER], "rejected": [USER, MODEL]},
        "`chosen` does not end with an assistant message",
    ),
    "other prompt": (
        {"prompt": "Q", "chosen": [USER, MODEL], "rejected": [USER, {**MODEL, "content": "no"}]},
        "the conversation in `chosen` does not begin with its `prompt`",
    ),
}


@pytest.mark.parametrize("skip", [False, True])
def test_rows_with_keys_of_their_own_are_told_how_to_say_so(skip: bool):
    assert "--prompt-feature" in refusal([{"question": "a", "answer": "b"}], skip_bad=skip)
    for value in ({"promt": "a", "completion": "b"}, {"text": None}, {"prompt": "Q", "chosen": "x"}):
        assert "-feature" not in refusal([value], skip_bad=skip)


@pytest.mark.parametrize(("value", "words"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_says_what_is_wrong(tmp_path: Path, value: dict[str, Any], words: str):
    write_jsonl(tmp_path / "train.jsonl", [value])
    said = refusal(tmp_path)
    assert said.startswith("train.jsonl:1: ") and words in said, said
    assert said.endswith("`--skip-bad` leaves out such rows)")


GOOD = {
    "tool calls": {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
    "only thoughts": {"messages": [USER, {"role": "assistant", "reasoning_content": "Hm."}]},
    "an empty answer": {"messages": [USER, {"role": "assistant", "content": ""}]},
    "no question": {"prompt": "", "completion": "A"},
    "tools": {**CHAT, "tools": [{"type": "function"}]},
    "no tools": {**CHAT, "tools": []},
    "after a system": {
        "prompt": "Hi",
        "chosen": [{"role": "system", "content": "Be kind."}, USER, MODEL],
        "rejected": [USER, {**MODEL, "content": "no"}],
    },
}


@pytest.mark.parametrize("value", GOOD.values(), ids=GOOD)
def test_a_good_row_stays_as_it_is(value: dict[str, Any]):
    assert read([value]).train[0].value == value


def test_many_bad_rows_are_one_line(tmp_path: Path):
    write_jsonl(tmp_path / "train.jsonl", [TEXT, {}, TEXT, {}, {}, {}, {}])
    said = refusal(tmp_path)
    assert said.startswith(
        "train.jsonl:2: the row is empty (and 4 more bad rows: train.jsonl:4, train.jsonl:5, ...)"
    )
    write_jsonl(tmp_path / "train.jsonl", [{}, {}])
    assert "the row is empty (and 1 more bad row: train.jsonl:2)" in refusal(tmp_path)


def test_bad_rows_are_skipped_and_counted_by_their_trouble(tmp_path: Path):
    path = write_jsonl(tmp_path / "train.jsonl", [TEXT, {}, {"text": ""}, {}, TEXT])
    path.write_text(path.read_text() + "{\n")
    data = read(tmp_path, skip_bad=True)
    assert [row.place for row in data.train] == ["train.jsonl:1", "train.jsonl:5"]
    assert data.skipped == {"empty row": 2, "empty text": 1, "not JSON": 1}
    assert data.notes[0] == "train.jsonl: text, 2 rows"


def test_only_bad_rows_are_no_data():
    said = refusal([{}, {"text": ""}], skip_bad=True)
    counted = "1 × empty row, 1 × empty text (row 1: the row is empty)"
    assert said == f"no row of the data can be used: {counted}"


def test_a_bad_row_does_not_decide_the_format():
    assert read([{"text": ""}, CHAT], skip_bad=True).format == "messages"


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_an_error_of_ours(content: bytes):
    try:
        data = read(io.BytesIO(content), skip_bad=True)
    except MlxoneError as error:
        assert "\n" not in str(error)
    else:
        assert data.train


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "type", "tool_calls"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(["messages", "prompt", "completion", "text", "chosen", "rejected", "tools", "x"])


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=4), max_size=4))
def test_any_values_are_data_or_an_error_of_ours(values: list[dict[str, Any]]):
    for skip_bad in (False, True):
        try:
            read(values, skip_bad=skip_bad)
        except DataError as error:
            assert "\n" not in str(error)


# Folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["valid", "val", "validation", "dev"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_folder_has_its_splits_by_name(tmp_path: Path, word: str, suffix: str):
    for name, count in (("train", 3), (word, 2), ("test", 1)):
        write_jsonl(tmp_path / (name + suffix), texts(count))
    (tmp_path / "README.md").write_text("what it is")
    data = read(tmp_path)
    assert [len(rows) for rows in (data.train, data.valid, data.test)] == [3, 2, 1]
    assert data.notes[1] == f"{word}{suffix}: text, 2 rows"
    assert len(data.notes) == 3


def test_a_folder_without_a_valid_set_works_and_says_so(tmp_path: Path):
    write_jsonl(tmp_path / "train.jsonl", texts(30))
    data = read(tmp_path)
    assert (len(data.train), data.valid) == (30, [])
    assert data.notes[-1].startswith("no valid set: ")
    asked = read(tmp_path, valid_share=0.5)
    assert (len(asked.train), len(asked.valid)) == (15, 15)


def test_a_share_beside_a_valid_set_is_said_to_be_of_no_use(tmp_path: Path):
    for name in ("train", "valid"):
        write_jsonl(tmp_path / f"{name}.jsonl", texts(4))
    data = read(tmp_path, valid_share=0.5)
    assert (len(data.train), len(data.valid)) == (4, 4)
    assert data.notes[-1] == "there is a valid set, so none is split off"


@pytest.mark.parametrize("names", [("train.jsonl", "train.json"), ("train.jsonl", "val.jsonl", "dev.json")])
def test_two_files_for_one_split_are_both_named(tmp_path: Path, names: tuple[str, ...]):
    for name in names:
        write_jsonl(tmp_path / name, texts(1))
    said = refusal(tmp_path)
    assert all(name in said for name in names[-2:])


def test_a_folder_without_any(tmp_path: Path):
    assert refusal(tmp_path).endswith("has no train.jsonl (or .json, .parquet) (it is empty)")
    (tmp_path / "data.csv").write_text("")
    assert refusal(tmp_path).endswith("(it holds data.csv)")


def test_a_missing_set_is_named(tmp_path: Path):
    write_jsonl(tmp_path / "test.jsonl", texts(2))
    assert "has no train set (a folder needs a train.jsonl" in refusal(tmp_path)
    assert len(read(tmp_path, need=("test",)).test) == 2
    write_jsonl(tmp_path / "train.jsonl", texts(2))
    (tmp_path / "test.jsonl").unlink()
    assert "has no test set" in refusal(tmp_path, need=("train", "test"))
    (tmp_path / "train.jsonl").write_text("\n")
    assert refusal(tmp_path).endswith("holds no rows")


# One piece -------------------------------------------------------------------------------


@given(
    count=st.integers(1, 60),
    share=st.floats(0, 1, exclude_max=True, allow_nan=False),
    seed=st.integers(0, 5),
)
def test_a_file_is_split_by_share_and_seed(tmp_path_factory: Any, count: int, share: float, seed: int):
    path = write_jsonl(tmp_path_factory.getbasetemp() / "one.jsonl", texts(count))
    data = read(path, valid_share=share, seed=seed)
    again = read(path, valid_share=share, seed=seed)
    assert (data.train, data.valid) == (again.train, again.valid)
    numbers = [[int(row.place.partition(":")[2]) for row in rows] for rows in (data.train, data.valid)]
    assert sorted(numbers[0] + numbers[1]) == list(range(1, count + 1))
    assert numbers == [sorted(part) for part in numbers]
    assert data.train
    assert bool(data.valid) == (share > 0 and count > 1)
    assert abs(len(data.valid) - share * count) <= 1


def test_a_tenth_is_kept_unless_told_otherwise(tmp_path: Path):
    path = write_jsonl(tmp_path / "one.jsonl", texts(100))
    data = read(path)
    assert (len(data.train), len(data.valid)) == (90, 10)
    assert data.notes[-1] == "10 of 100 rows are kept as the valid set"
    assert {row.place for row in read(path, seed=1).valid} != {row.place for row in data.valid}
    assert read(path, valid_share=0).valid == []


def test_one_row_is_learned_from(tmp_path: Path):
    data = read(write_jsonl(tmp_path / "one.jsonl", texts(1)))
    assert (len(data.train), data.valid) == (1, [])
    assert data.notes[-1].startswith("no valid set: one row cannot be split")


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_an_impossible_share_is_refused(share: float):
    assert "the share of valid rows is from 0 to below 1" in refusal([TEXT], valid_share=share)


def test_a_stream_is_split_as_a_file_is():
    content = "".join(json.dumps(value) + "\n" for value in texts(20)).encode()
    data = read(io.BytesIO(content))
    assert (len(data.train), len(data.valid), data.name) == (18, 2, "stdin")
    assert {row.place for row in data.train + data.valid} == {f"stdin:{at}" for at in range(1, 21)}
    assert refusal(io.BytesIO(b"")) == "stdin holds no rows"
    assert refusal(io.BytesIO(b"{")).startswith("stdin:1: not JSON")


def test_a_file_may_hold_all_splits(tmp_path: Path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": texts(3), "validation": texts(2), "test": texts(1)}))
    data = read(path)
    assert [len(rows) for rows in (data.train, data.valid, data.test)] == [3, 2, 1]


def test_a_pipe_is_read_as_a_stream(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=('{"text": "a"}\n',), daemon=True)
    writer.start()
    assert read(pipe).train[0].place == "pipe:1"
    writer.join()


def test_what_is_no_data_file_is_refused_by_name(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("a,b\n")
    said = refusal(tmp_path / "rows.csv")
    assert "rows.csv is none of .jsonl, .ndjson, .json, .parquet" in said
    for missing in ("gone.jsonl", "data/gone.jsonl", "a/b/c"):
        assert refusal(missing).startswith(f"there is no file or folder {missing}")


def test_a_program_hands_in_its_rows():
    assert [row.place for row in read([TEXT, TEXT], valid_share=0).train] == ["row 1", "row 2"]
    assert refusal(["text"]).startswith("row 1: a row must be a mapping, not str")
    assert refusal([]) == "the data holds no rows"


def test_a_path_wins_over_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError, match="org/name is no file or folder here"):
        read("org/name")
    (tmp_path / "org/name").mkdir(parents=True)
    write_jsonl(tmp_path / "org/name/train.jsonl", texts(1))
    assert len(read("org/name").train) == 1


@pytest.mark.parametrize("name", ["", "x" * 5_000, "a\0b", "org/" + "n" * 300])
def test_names_that_no_file_can_have(name: str):
    assert isinstance(refusal(name), str)


def test_any_iterable_is_rows_and_text_is_no_stream():
    assert len(read(iter([TEXT, TEXT]), valid_share=0).train) == 2
    assert "a stream of bytes" in refusal(io.StringIO("{}"))
    assert "not int" in refusal(7)
    stdin: Any = io.TextIOWrapper(io.BytesIO(b'{"text": "a"}'))
    assert read(stdin).train


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StorageError, match="cannot be read: Permission denied"):
        read(tmp_path)
