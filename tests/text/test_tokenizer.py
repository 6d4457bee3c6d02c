from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, processors
from tokenizers import Tokenizer as Library
from transformers import PreTrainedTokenizerFast

from mlxone.core.errors import DamagedModel, StorageError
from mlxone.text import files
from mlxone.text.boundary import Guarded
from mlxone.text.tokenizer import Tokenizer
from tests.text.builders import STYLES, byte_level, sentencepiece, undecoded, wrap, write

CONFIG = {"bos_token": "<s>", "eos_token": "</s>"}
TRICKY = [
    "",
    " ",
    "a",
    "  two  spaces\n\n",
    "<s>the a</s>",
    "<s><s>the",
    "日本 👩‍🚀 é e\u0301",
    "don't 1234",
    "<tool>x</tool>",
    "\x00\x7f",
    "def f(x):\n    return x\n",
]


def with_bos(library: Library) -> Library:
    id = library.token_to_id("<s>")
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", id)])
    return library


def oracle(folder: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


# --- ids and text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["byte level", "llama", "gemma"])
def test_ids_and_text_are_those_of_transformers(style: str, tmp_path: Path) -> None:
    write(tmp_path, with_bos(STYLES[style]()), CONFIG)
    model, other = Tokenizer.load(tmp_path), oracle(tmp_path)
    assert model.vocab_size == len(other)
    assert model.special_ids == set(other.all_special_ids)
    for text in TRICKY:
        ids = model.encode(text)
        assert ids == other.encode(text, add_special_tokens=False)
        for skip in (True, False):
            assert model.decode(ids, skip_special=skip) == other.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("style", ["byte level", "llama", "gemma"])
def test_add_special_adds_what_transformers_adds(style: str, tmp_path: Path) -> None:
    write(tmp_path, with_bos(STYLES[style]()), CONFIG)
    model, other = Tokenizer.load(tmp_path), oracle(tmp_path)
    for text in TRICKY:
        if not text.startswith("<s>"):
            assert model.encode(text, add_special=True) == other.encode(text)


@given(st.text(max_size=40))
def test_any_text_comes_back(text: str) -> None:
    model = wrap(byte_level())
    assert model.decode(model.encode(text), skip_special=False) == text


def test_halves_of_surrogate_pairs_are_joined_or_replaced() -> None:
    model = wrap(byte_level())
    assert model.decode(model.encode("a\ud83d\ude80b")) == "a🚀b"
    assert model.decode(model.encode("a\ud83db")) == "a\ufffdb"


# --- beginning of sequence -------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["byte level", "llama", "gemma"])
def test_never_two_bos(style: str) -> None:
    model = wrap(with_bos(STYLES[style]()))
    bos, rest = model.bos_id, model.encode("<s>the")[1:]
    assert model.encode("the", add_special=True).count(bos) == 1
    for text in ("<s>the", "<s><s>the", "<s><s><s>the"):
        assert model.encode(text, add_special=True) == [bos, *rest]
        assert model.encode_rendered(text) == [bos, *rest]
    assert model.encode_rendered("<s>") == [bos]


def test_a_template_that_writes_no_bos_gets_none() -> None:
    model = wrap(with_bos(byte_level()))
    assert model.bos_id not in model.encode_rendered("the")


def test_a_bos_inside_the_text_is_kept() -> None:
    model = wrap(with_bos(byte_level()))
    assert model.encode_rendered("<s>a<s><s>").count(model.bos_id) == 3


def test_plain_text_is_taken_as_typed() -> None:
    model = wrap(with_bos(byte_level()))
    assert model.encode("<s><s>a")[:2] == [model.bos_id] * 2


# --- what the other files say ----------------------------------------------------------------------


@pytest.mark.parametrize("bos", ["<s>", {"content": "<s>", "lstrip": False, "special": True}])
def test_a_special_token_is_text_or_an_object(bos: object, tmp_path: Path) -> None:
    model = Tokenizer.load(write(tmp_path, byte_level(), {"bos_token": bos, "eos_token": None}))
    assert (model.bos_token, model.eos_token, model.eos_id) == ("<s>", None, None)
    assert model.bos_id == model._library.token_to_id("<s>")


def test_the_config_wins_over_the_older_map(tmp_path: Path) -> None:
    older = {"bos_token": "</s>", "eos_token": {"content": "</s>"}, "pad_token": "<s>"}
    write(tmp_path, byte_level(), {"bos_token": "<s>", "pad_token": None}, special_tokens_map=older)
    assert Tokenizer.load(tmp_path).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_no_config_at_all_is_no_obstacle(tmp_path: Path) -> None:
    model = Tokenizer.load(write(tmp_path, byte_level()))
    assert (model.bos_token, model.eos_token, model.eos_id) == (None, None, None)
    assert model.encode("<s>a", add_special=True)


@pytest.mark.parametrize("flags", [{"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("prepared", [True, False])
def test_the_post_processor_decides_over_flags_of_older_formats(
    flags: dict[str, bool], prepared: bool, tmp_path: Path
) -> None:
    library = with_bos(byte_level()) if prepared else byte_level()
    model = Tokenizer.load(write(tmp_path, library, {**CONFIG, **flags}))
    assert model.encode("the", add_special=True) == oracle(tmp_path).encode("the")
    assert (model.encode("the", add_special=True)[0] == model.bos_id) == prepared


def test_a_config_can_make_a_token_special_but_not_plain(tmp_path: Path) -> None:
    """As in transformers, where a token declared plain stays silent if `tokenizer.json` says special."""
    library = Library(models.WordLevel({"<unk>": 0, "a": 1}, "<unk>"))
    library.add_tokens([AddedToken("<t>", special=False, normalized=False)])
    library.add_special_tokens([AddedToken("<u>", special=True, normalized=False)])
    declared = {"2": {"content": "<t>", "special": True}, "3": {"content": "<u>", "special": False}}
    model = Tokenizer.load(write(tmp_path, library, {"added_tokens_decoder": declared}))
    ids = model.encode("<t>a<u>")
    assert ids == [2, 1, 3]
    assert model.special_ids == {2, 3}
    stream = model.stream()
    assert (
        "".join(map(stream.add, ids))
        == model.decode(ids)
        == oracle(tmp_path).decode(ids, skip_special_tokens=True)
    )


def test_tokens_only_the_config_declares_are_special(tmp_path: Path) -> None:
    library = Library(models.WordLevel({"<unk>": 0, "a": 1, "<end>": 2, "<im>": 3}, "<unk>"))
    declared = {
        "4": {"content": "<call>", "special": False, "normalized": False},
        "3": {"content": "<im>", "special": True},
        "9": {"content": "<far>", "special": True},
        "x": {"content": "<odd>"},
        "5": "no object",
    }
    config = {"eos_token": "<end>", "bos_token": "<not there>", "added_tokens_decoder": declared}
    model = Tokenizer.load(write(tmp_path, library, config))
    assert model.encode("a<end><im><call>") == [1, 2, 3, 4]
    assert model.decode([1, 2, 3, 4]) == "a <call>"
    assert model.special_ids == {2, 3}
    assert (model.eos_id, model.bos_id, model.vocab_size) == (2, None, 5)


def test_declared_tokens_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    library = Library(models.WordLevel({"<unk>": 0, "a": 1, "<end>": 2, "<im>": 3}, "<unk>"))
    flags = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False}
    declared = {
        "3": {"content": "<im>", "special": True, **flags},
        "4": {"content": "<call>", "special": False, **flags},
    }
    write(tmp_path, library, {"eos_token": "<end>", "unk_token": "<unk>", "added_tokens_decoder": declared})
    model, other = Tokenizer.load(tmp_path), oracle(tmp_path)
    for text in ("a<end><im><call>", "a<im>  <call> a", "<unk>a"):
        assert model.encode(text) == other.encode(text, add_special_tokens=False)
    for skip in (True, False):
        assert model.decode([1, 2, 3, 4, 0], skip_special=skip) == other.decode(
            [1, 2, 3, 4, 0], skip_special_tokens=skip
        )


def test_truncation_and_padding_of_the_training_are_off(tmp_path: Path) -> None:
    library = byte_level()
    library.enable_truncation(4)
    library.enable_padding(length=8)
    model = Tokenizer.load(write(tmp_path, library, CONFIG))
    assert model.encode("abcdefghij") == wrap(byte_level()).encode("abcdefghij")
    assert model.encode("a") == wrap(byte_level()).encode("a")


# --- damage ----------------------------------------------------------------------------------------


def test_no_tokenizer_names_the_folder_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DamagedModel, match="no tokenizer.json in") as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b"[" * 100_000, b"\xff\xfe\x00", b'{"model": {}}', bytes(999)]
)
def test_what_is_no_tokenizer_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(DamagedModel, match=r"tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stem", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"\xff", b"{", b"[" * 200_000, b"9" * 10_000])
def test_a_damaged_config_is_named(stem: str, data: bytes, tmp_path: Path) -> None:
    write(tmp_path, byte_level())
    (tmp_path / f"{stem}.json").write_bytes(data)
    with pytest.raises(DamagedModel, match=stem):
        Tokenizer.load(tmp_path)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    write(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())
    assert Tokenizer.load(tmp_path).bos_token == "<s>"


def test_a_file_beyond_the_limit_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"x" * 4096)
    assert len(files.read_bytes(path, 4096)) == 4096
    with pytest.raises(DamagedModel, match="larger than"):
        files.read_bytes(path, 4095)


def test_a_file_that_cannot_be_read_is_a_matter_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        files.read_bytes(tmp_path, 10)


@pytest.mark.parametrize("error", [ValueError("a\n  b"), Exception("a b"), RuntimeError("a\tb")])
def test_a_failure_of_the_library_is_one_line(error: Exception) -> None:
    with pytest.raises(DamagedModel, match="^It failed: a b ") as caught, Guarded("It failed"):
        raise error
    assert caught.value.__cause__ is error


def test_the_guard_lets_a_user_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), Guarded("It failed"):
        raise KeyboardInterrupt


def test_text_the_vocabulary_cannot_say_is_an_error_of_ours() -> None:
    library = Library(models.WordLevel({"a": 0}, "<unk>"))
    with pytest.raises(DamagedModel, match="cannot encode"):
        wrap(library).encode("b")


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out))
        match rng.randrange(4):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                del out[at : at + rng.randrange(1, 40)]
            case 2:
                out[at:at] = rng.choice(
                    [b"9" * 9, b"null", b"-1", b"{}", b"[]", b'"', b"\x00", b"1e99", b","]
                )
            case _:
                del out[at:]
        if not out:
            return b""
    return bytes(out)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damage_gives_a_tokenizer_or_an_error_of_ours(name: str, tmp_path: Path) -> None:
    config = {**CONFIG, "added_tokens_decoder": {"300": {"content": "<x>", "special": True}}}
    write(tmp_path, undecoded() if name == "tokenizer.json" else sentencepiece(), config)
    whole, rng = (tmp_path / name).read_bytes(), random.Random(5)
    outcomes = set()
    for _ in range(400):
        (tmp_path / name).write_bytes(damaged(whole, rng))
        try:
            model = Tokenizer.load(tmp_path)
            ids = model.encode("a b <s>", add_special=True)
            stream = model.stream()
            assert "".join([*map(stream.add, ids), stream.finish()]) == model.decode(ids)
            outcomes.add("fine")
        except DamagedModel as error:
            assert str(tmp_path) in error.message
            outcomes.add("refused")
    assert outcomes == {"fine", "refused"}
