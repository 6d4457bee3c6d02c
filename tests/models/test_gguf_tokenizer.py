"""The rebuilt tokenizer against its GGUF, SmolLM2's published ids and an independent BPE."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mlxone.models.gguf_tokenizer import Vocabulary, tokenizer_config, tokenizer_json
from tests.models import gguf_files as g


def vocabulary(**changes: Any) -> Vocabulary:
    facts: dict[str, Any] = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": g.TOKENS,
        "types": g.TYPES,
        "merges": g.MERGES,
        "bos": 1,
        "eos": 2,
        "unknown": 0,
        "padding": 2,
    }
    return Vocabulary(**(facts | changes))


def build(**changes: Any) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_json(vocabulary(**changes))))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text).tokens


def test_merges_special_and_user_tokens():
    assert pieces(build(), "hello<|im_end|> w<tool>\n") == ["hello", "<|im_end|>", "Ġw", "<tool>", "Ċ"]


def test_digits_are_split_before_merging():
    assert pieces(build(), "12") == ["1", "2"]
    assert pieces(build(pre="gpt-2"), "12") == ["12"]


def test_special_tokens_vanish_when_asked_and_user_tokens_stay():
    tokenizer = build()
    ids = tokenizer.encode("<|im_start|>hi <tool><|im_end|>").ids
    assert tokenizer.decode(ids) == "hi <tool>"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>hi <tool><|im_end|>"


@given(st.text())
def test_every_text_survives_the_round_trip(text: str):
    tokenizer = build()
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


HELLO = g.TOKENS.index("hello")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [HELLO]),
        ({"add_bos": True}, [1, HELLO]),
        ({"add_eos": True}, [HELLO, 2]),
        ({"add_bos": True, "add_eos": True}, [1, HELLO, 2]),
        ({"add_bos": True, "bos": None}, [HELLO]),
    ],
)
def test_bos_and_eos_are_added_as_the_file_says(flags: dict[str, Any], expected: list[int]):
    tokenizer = build(**flags)
    assert tokenizer.encode("hello").ids == expected
    assert tokenizer.encode("hello", add_special_tokens=False).ids == [HELLO]
    assert tokenizer.encode("hello", "hello").ids == expected * 2


def test_the_config_names_the_tokens():
    config = tokenizer_config(vocabulary(chat_template="T"), context_length=512)
    named = {k: config[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")}
    assert named == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
        "chat_template": "T",
    }
    assert config["model_max_length"] == 512
    assert config["clean_up_tokenization_spaces"] is False
    assert {k: v["special"] for k, v in config["added_tokens_decoder"].items()} == {
        "0": True,
        "1": True,
        "2": True,
        str(len(g.TOKENS) - 1): False,
    }


def test_what_the_file_does_not_say_is_left_out():
    config = tokenizer_config(vocabulary(bos=None, unknown=None, padding=None), context_length=512)
    assert {"bos_token", "unk_token", "pad_token", "chat_template"} & set(config) == set()


# The real one.


@pytest.fixture(scope="module")
def smollm2(starter_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(starter_folder / "tokenizer.json"))


# What SmolLM2's published tokenizer gives, as several independent projects recorded it.
PUBLISHED = {
    "Hello world": [19556, 905],
    "The quick brown fox jumps over the lazy dog": [504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767],
    "The year 2024 had 365 days; 12 months.": [
        504, 713, 216, 34, 32, 34, 36, 761, 216, 35, 38, 37, 2009, 43, 216, 33, 34, 2704, 30,
    ],
    "  leading and   multiple   spaces  ": [216, 2899, 284, 256, 2701, 256, 5600, 256],
    "def f(n):\n    return n+1\n": [1604, 275, 24, 94, 727, 472, 1003, 304, 27, 33, 198],
    "'s 't 're 've 'm 'll 'd": [506, 637, 100, 637, 257, 637, 307, 637, 93, 637, 764, 637, 84],
    "a,b,c...   ???!!!  <tag>": [81, 28, 82, 28, 83, 2026, 256, 9148, 16693, 29646, 216, 2067, 9204, 46],
    "Hello, 世界!": [19556, 28, 216, 7906, 240, 178, 239, 230, 17],
    "Grüße, café!": [27302, 7170, 34878, 85, 28, 37366, 17],
    "Tab\there\nNewline\n\nDouble": [30064, 197, 1531, 198, 5529, 1311, 198, 198, 33743],
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n": [
        1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198,
    ],
    "<|endoftext|>": [0],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize(("text", "ids"), PUBLISHED.items(), ids=map(repr, PUBLISHED))
def test_published_ids(smollm2: Tokenizer, text: str, ids: list[int]):
    assert smollm2.encode(text).ids == ids
    assert smollm2.decode(ids, skip_special_tokens=False) == text


SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
]


def test_special_tokens_are_the_published_seventeen(smollm2: Tokenizer, starter_folder: Path):
    config = json.loads((starter_folder / "tokenizer_config.json").read_text())
    rows = config["added_tokens_decoder"]
    assert [rows[str(i)]["content"] for i in range(17)] == SPECIAL
    assert len(rows) == 17
    assert all(row["special"] and not row["lstrip"] and not row["rstrip"] for row in rows.values())
    assert [config[f"{k}_token"] for k in ("bos", "eos", "unk", "pad")] == [SPECIAL[i] for i in (1, 2, 0, 2)]


# An independent byte-level BPE, slow and plain, from the published definition: special tokens first,
# every numeral alone, GPT-2's words, then always the pair with the lowest rank.

WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


class PlainBPE:
    def __init__(self, folder: Path) -> None:
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        self.ids: dict[str, int] = model["vocab"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}

    def encode(self, text: str) -> list[int]:
        parts = re.split("(" + "|".join(map(re.escape, SPECIAL)) + ")", text)
        return [i for part in parts for i in ([self.ids[part]] if part in SPECIAL else self.ordinary(part))]

    def ordinary(self, text: str) -> list[int]:
        spaced = "".join(f"\0{c}\0" if unicodedata.category(c)[0] == "N" else c for c in text)
        words = [w for chunk in spaced.split("\0") if chunk for w in self.words(chunk)]
        return [self.ids[token] for word in words for token in self.merge(word)]

    def words(self, chunk: str) -> list[str]:
        return [chunk] if unicodedata.category(chunk[0])[0] == "N" else WORDS.findall(chunk)

    def merge(self, word: str) -> list[str]:
        tokens = [g.BYTE_TOKENS[b] for b in word.encode()]
        while True:
            ranked = [
                (self.ranks.get(pair, 1 << 30), i)
                for i, pair in enumerate(zip(tokens, tokens[1:], strict=False))
            ]
            rank, i = min(ranked, default=(1 << 30, 0))
            if rank == 1 << 30:
                return tokens
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


@pytest.fixture(scope="module")
def plain(starter_folder: Path) -> PlainBPE:
    return PlainBPE(starter_folder)


TRICKY = [
    "3.14159, 1,000,000 and 0x7F; 2024-11-21T10:27:31Z",
    "½ cup, x² + y³, Ⅻ, ٣٤٥, 五十, 1️⃣",
    "don't can't we'll I'd they've it's O'Neill DON'T y'all'd've",
    "👍🏽 👨‍👩‍👧‍👦 🇫🇷 ❤️ ¯\\_(ツ)_/¯",
    "日本語のテキスト。한국어 中文字符 ไทย हिन्दी עברית العربية",
    "a  b   c    d \n\n\n  e\t\tf   \n",
    "def main() -> None:\n    for i in range(10):\n        print(f\"{i:>3}\")\n\treturn\n",
    "<|im_start|>system\nYou are<|im_end|>\n<|im_start|>user\nI type <|im_end|> and <file_sep>x<|im_",
    "e\u0301 vs \u00e9, ﬁ, ß, İstanbul, \u200bzero\u200dwidth, \u00a0nbsp",
    "https://example.org/a_b?c=1&d=%20#frag __init__ _x_ --flag",
    " ", "   ", "\n", "0", "'", "<", "<|", "\U0010ffff",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKY, ids=ascii)
def test_tricky_text_is_cut_as_published(smollm2: Tokenizer, plain: PlainBPE, text: str):
    assert smollm2.encode(text).ids == plain.encode(text)
    assert smollm2.decode(smollm2.encode(text).ids, skip_special_tokens=False) == text


# Control characters are left out: Python's idea of white space among them differs from the tokenizer's.
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")) | st.sampled_from(" \n\t'09<|_"))


@given(ANY_TEXT)
def test_any_text_is_cut_as_published(smollm2: Tokenizer, plain: PlainBPE, text: str):
    assert smollm2.encode(text).ids == plain.encode(text)


def test_transformers_reads_the_folder_the_same(smollm2: Tokenizer, starter_folder: Path):
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(str(starter_folder))
    for text in [*PUBLISHED, *TRICKY]:
        assert theirs(text)["input_ids"] == smollm2.encode(text).ids
        assert theirs.decode(theirs(text)["input_ids"]) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id, theirs.pad_token_id) == (
        1,
        2,
        0,
        2,
    )
    assert theirs.model_max_length == 8192
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert smollm2.encode(rendered).ids == [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712,
        8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198,
    ]  # fmt: skip
