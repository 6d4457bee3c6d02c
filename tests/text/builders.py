"""Small tokenizers in the styles models are published with, and the folders they are loaded from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlxone.text import tokenizer as ours

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = list("abcdefghijklmnopqrstuvwxyz.,!?'")
SPECIALS = ["<s>", "</s>"]


def byte_level() -> Tokenizer:
    """GPT-2, Llama-3, Qwen: bytes as letters, whole words and parts of characters among the tokens."""
    as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = ["Ġ", "Ġt", "he", "llo", "Ċ", "ĠĠ", "ðŁ", "ĺ", "Ģ", "é", "Ã", "©", "æĹ", "¥"]
    words += [as_letters.pre_tokenize_str(text)[0][0] for text in ("日本", "👩‍🚀", " é")]
    vocab = {
        text: id
        for id, text in enumerate(dict.fromkeys([*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]))
    }
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = as_letters
    made.decoder = decoders.ByteLevel()
    return _with_added(made)


def sentencepiece(*, strip: bool = True, regex: bool = False) -> Tokenizer:
    """Llama-2 and Mistral; Gemma without the strip."""
    pieces = ["<unk>", *BYTES, *LETTERS, "▁", "▁▁", "▁the", "▁a", "▁▁b", "lo▁", "é", "日"]
    made = Tokenizer(models.BPE(vocab=_numbered(pieces), merges=[], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if strip else []), normalizers.Replace(" ", "▁")]
    )
    steps: list[Any] = [decoders.Replace(Regex("▁") if regex else "▁", " "), decoders.ByteFallback()]
    steps += [decoders.Fuse(), *([decoders.Strip(" ", 1, 0)] if strip else [])]
    made.decoder = decoders.Sequence(steps)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", len(pieces))]
    )
    return _with_added(made)


def metaspace(scheme: str) -> Tokenizer:
    made = Tokenizer(
        models.WordLevel(_numbered(["<unk>", *LETTERS, "▁", "▁a", "▁▁b▁", "c▁", "", "é"]), "<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return _with_added(made)


def wordpiece(*, cleanup: bool) -> Tokenizer:
    words = ["[UNK]", *LETTERS, "##a", "##", "##'s", "n't", "'m", "do not", "a b .", "a '", "", "##.", "é"]
    made = Tokenizer(models.WordPiece(vocab=_numbered(words), unk_token="[UNK]"))
    made.decoder = decoders.WordPiece(cleanup=cleanup)
    return _with_added(made)


def word_ends() -> Tokenizer:
    made = Tokenizer(
        models.WordLevel(_numbered(["<unk>", *LETTERS, "a</w>", "the</w>", "</w>", ""]), "<unk>")
    )
    made.decoder = decoders.BPEDecoder()
    return _with_added(made)


def ctc() -> Tokenizer:
    made = Tokenizer(models.WordLevel(_numbered(["<pad>", "|", *LETTERS, "a|", "<pad>b", " ."]), "<pad>"))
    made.decoder = decoders.CTC()
    return _with_added(made)


def undecoded() -> Tokenizer:
    return _with_added(Tokenizer(models.WordLevel(_numbered(["<unk>", *LETTERS, "é", ""]), "<unk>")))


STYLES = {
    "byte level": byte_level,
    "llama": sentencepiece,
    "gemma": lambda: sentencepiece(strip=False),
    "llama, by regex": lambda: sentencepiece(regex=True),
    "metaspace always": lambda: metaspace("always"),
    "metaspace first": lambda: metaspace("first"),
    "metaspace never": lambda: metaspace("never"),
    "wordpiece": lambda: wordpiece(cleanup=True),
    "wordpiece, no cleanup": lambda: wordpiece(cleanup=False),
    "word ends": word_ends,
    "ctc": ctc,
    "no decoder": undecoded,
}


def _numbered(texts: list[str]) -> dict[str, int]:
    return {text: id for id, text in enumerate(texts)}


def _with_added(made: Tokenizer) -> Tokenizer:
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    made.add_tokens(["<tool>", "日▁本", "Ġ x", "Ã©"])
    return made


def wrap(library: Tokenizer, **named: str) -> ours.Tokenizer:
    return ours.Tokenizer(
        library, named or {"bos_token": "<s>", "eos_token": "</s>"}, name="the test's tokenizer"
    )


def write(folder: Path, library: Tokenizer, config: object = None, **files: object) -> Path:
    """A model folder; `files` are further JSON files by their stem."""
    library.save(str(folder / "tokenizer.json"))
    for stem, value in {"tokenizer_config": config, **files}.items():
        if value is not None:
            (folder / f"{stem}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
