"""A GGUF file's tokenizer, rebuilt as the `tokenizer.json` and `tokenizer_config.json` of a snapshot.

GGUF keeps the vocabulary, the merges and the *name* of the rule that cuts text into words. Only
rules whose published definition is known are rebuilt; a guessed one would give other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxone.core.errors import DamagedModel, UnsupportedModel

# llama.cpp's token types. 1 is an ordinary token, 5 an unused place, 6 a raw byte (not in byte-level BPE).
CONTROL, USER_DEFINED = 3, 4

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}

PRE_TOKENIZERS: Mapping[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTE_LEVEL]},
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file says about text, as plain Python values."""

    model: str  # "gpt2" is byte-level BPE
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    padding: int | None = None
    end_of_turn: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    chat_template: str | None = None

    def token(self, index: int | None) -> str | None:
        return None if index is None else self.tokens[index]

    @property
    def eos_ids(self) -> list[int]:
        """Every token that ends an answer."""
        return list(dict.fromkeys(i for i in (self.eos, self.end_of_turn) if i is not None))


def check(v: Vocabulary) -> None:
    if v.model != "gpt2":
        raise UnsupportedModel(
            f"GGUF tokenizer {v.model!r} cannot be rebuilt", hint="only byte-level BPE ('gpt2') can"
        )
    if v.pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UnsupportedModel(f"GGUF pre-tokenizer {v.pre!r} cannot be rebuilt", hint=f"these can: {known}")
    if not v.tokens or len(set(v.tokens)) != len(v.tokens):
        raise DamagedModel("tokenizer.ggml.tokens is empty or holds a token twice")
    if len(v.types) != len(v.tokens):
        raise DamagedModel(f"tokenizer.ggml.token_type has {len(v.types)} items for {len(v.tokens)} tokens")
    for name in ("bos", "eos", "unknown", "padding", "end_of_turn"):
        index = getattr(v, name)
        if index is not None and not 0 <= index < len(v.tokens):
            raise DamagedModel(f"the tokenizer's {name} token {index} is outside its {len(v.tokens)} tokens")


def added_tokens(v: Vocabulary) -> list[dict[str, Any]]:
    """Tokens that are found in the text before it is cut into words."""
    return [
        {
            "id": i,
            "content": v.tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for i, kind in enumerate(v.types)
        if kind in (CONTROL, USER_DEFINED)
    ]


def tokenizer_json(v: Vocabulary) -> dict[str, Any]:
    check(v)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(v),
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[v.pre],
        "post_processor": _post_processor(v),
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,  # every byte has a token, so nothing is ever unknown
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(v.tokens)},
            "merges": _merges(v),
        },
    }


def _merges(v: Vocabulary) -> list[list[str]]:
    known = set(v.tokens)
    pairs = []
    for merge in v.merges:
        pair = merge.split(" ")  # byte-level tokens hold no space of their own
        if len(pair) != 2 or not {*pair, "".join(pair)} <= known:
            raise DamagedModel(f"tokenizer.ggml.merges: {merge!r} does not join two tokens to a third")
        pairs.append(pair)
    return pairs


def _post_processor(v: Vocabulary) -> dict[str, Any] | None:
    before = [v.bos] if v.add_bos and v.bos is not None else []
    after = [v.eos] if v.add_eos and v.eos is not None else []
    if not before and not after:
        return None

    def special(index: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": v.tokens[index], "type_id": 0}}

    def around(sequence: str) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": sequence, "type_id": 0}}
        return [*map(special, before), text, *map(special, after)]

    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A") + around("B"),
        "special_tokens": {
            v.tokens[i]: {"id": v.tokens[i], "ids": [i], "tokens": [v.tokens[i]]} for i in before + after
        },
    }


def tokenizer_config(v: Vocabulary, context_length: int) -> dict[str, Any]:
    rows = added_tokens(v)
    config: dict[str, Any] = {
        "add_bos_token": v.add_bos,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(row["id"]): {k: x for k, x in row.items() if k != "id"} for row in rows},
        "bos_token": v.token(v.bos),
        "clean_up_tokenization_spaces": False,
        # A chat model ends a turn with its end-of-turn token where it has one.
        "eos_token": v.token(v.end_of_turn if v.end_of_turn is not None else v.eos),
        "model_max_length": context_length,
        "pad_token": v.token(v.padding),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": v.token(v.unknown),
    }
    config["chat_template"] = v.chat_template
    return {name: value for name, value in config.items() if value is not None}
