"""One model's tokenizer: text to ids and back, through the `tokenizers` library.

`tokenizer.json` decides; `tokenizer_config.json` and `special_tokens_map.json` only name the
special tokens (their `add_bos_token` is left over from older formats). Knows nothing of templates.
Whatever the library raises leaves this file as an error of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from mlxone.core.errors import DamagedModel
from mlxone.text.boundary import Guarded
from mlxone.text.decoder import DecoderPlan, StreamDecoder
from mlxone.text.files import TOKENIZER_LIMIT, read_bytes, read_object

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LONG = 10_000  # letters; they take some 10 ms
ID_LIMIT = 2**32  # the library's ids are u32; it raises for anything else


class Tokenizer:
    def __init__(self, library: Library, special_tokens: Mapping[str, str], *, name: str) -> None:
        self._library = library
        self._encoding = Guarded(f"{name} cannot encode this text")
        self._decoding = Guarded(f"{name} cannot decode these tokens")
        # What templates may read: `bos_token` and so on, as text.
        self.special_tokens = dict(special_tokens)
        self.bos_token = self.special_tokens.get("bos_token")
        self.eos_token = self.special_tokens.get("eos_token")
        self.bos_id = None if self.bos_token is None else library.token_to_id(self.bos_token)
        self.eos_id = None if self.eos_token is None else library.token_to_id(self.eos_token)
        self.vocab_size: int = library.get_vocab_size(with_added_tokens=True)
        added = library.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        # The library skips by text, so a second id with a special token's text is skipped as well.
        self._special_texts = frozenset(token.content for token in added.values() if token.special)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise DamagedModel(
                f"no tokenizer.json in {folder}",
                hint="the folder of a model needs one: download the model again, or convert its tokenizer",
            )
        config = read_object(folder / "tokenizer_config.json")
        named = _named_tokens(config, read_object(folder / "special_tokens_map.json"))
        data = read_bytes(path, TOKENIZER_LIMIT)
        with Guarded(f"{path} is not a tokenizer that can be read"):
            library = Library.from_buffer(data)
            library.no_truncation()  # left over from training in many published files
            library.no_padding()
            _declare(library, config, named)
            return cls(library, named, name=str(path))

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Special tokens written in the text are honoured; `add_special` adds what the model expects."""
        ids = self._encode(text, add_special=add_special)
        return self._one_bos(ids) if add_special else ids

    def encode_rendered(self, text: str) -> list[int]:
        """Text from a template, which wrote every special token itself."""
        return self._one_bos(self._encode(text, add_special=False))

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        known = [int(id) for id in ids if 0 <= id < ID_LIMIT]
        with self._decoding:
            text: str = self._library.decode(known, skip_special_tokens=skip_special)
            return text

    def token_text(self, id: int) -> str:
        """One token's text as it reads inside a sentence: a leading space is kept."""
        decoder = StreamDecoder(self._piece, self._plan.chain(started=True), self._decoding)
        return decoder.add(id) + decoder.finish()

    def stream(self, *, skip_special: bool = True) -> StreamDecoder:
        piece_of = self._spoken_piece if skip_special else self._piece
        return StreamDecoder(piece_of, self._plan.chain(), self._decoding)

    @cached_property
    def _plan(self) -> DecoderPlan:
        with self._decoding:
            return DecoderPlan(self._library.decoder)

    def _piece(self, id: int) -> str | None:
        return self._library.id_to_token(int(id)) if 0 <= id < ID_LIMIT else None

    def _spoken_piece(self, id: int) -> str | None:
        piece = self._piece(id)
        return None if piece in self._special_texts else piece

    def _encode(self, text: str, *, add_special: bool) -> list[int]:
        text = _whole_characters(text)
        with self._encoding:
            if len(text) < LONG:
                return list(self._library.encode(text, add_special_tokens=add_special).ids)
            # The same ids. Only of a batch does the library let other threads run meanwhile.
            [encoding] = self._library.encode_batch_fast([text], add_special_tokens=add_special)
            return list(encoding.ids)

    def _one_bos(self, ids: list[int]) -> list[int]:
        if self.bos_id is None or ids[:1] != [self.bos_id]:
            return ids
        rest = next((at for at, id in enumerate(ids) if id != self.bos_id), len(ids))
        return ids[rest - 1 :]


def _named_tokens(config: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that have a role; the config wins over the older file, even to say none."""
    extra = config.get("extra_special_tokens")
    values = {name: config[name] if name in config else older.get(name) for name in NAMED}
    values |= extra if isinstance(extra, dict) else {}
    values = {name: v.get("content") if isinstance(v, dict) else v for name, v in values.items()}
    return {name: text for name, text in values.items() if isinstance(text, str) and text}


def _declare(library: Library, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Makes added tokens of those that the config declares, as it declares them.

    One that would get another id than the declared one is left out: the model has no row for it.
    """
    added = library.get_added_tokens_decoder()
    size = library.get_vocab_size(with_added_tokens=True)
    wanted = []
    for id, token in sorted(_declared_tokens(config), key=itemgetter(0)):
        if added.get(id) == token:
            continue
        there = library.token_to_id(token.content)
        free = there is None and size == id
        silenced = id in added and added[id].special and not token.special  # the library cannot undo that
        if (there == id or free) and not silenced:
            wanted.append(token)
            size += free
    library.add_tokens(wanted)  # together: the library rebuilds its search at each call
    special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    for text in named.values():
        if text not in special and library.token_to_id(text) is not None:
            library.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _declared_tokens(config: Mapping[str, Any]) -> Iterable[tuple[int, AddedToken]]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    declared = config.get("added_tokens_decoder")
    for id, token in declared.items() if isinstance(declared, dict) else ():
        text = token.get("content") if isinstance(token, dict) else None
        if isinstance(text, str) and text and id.isascii() and id.isdigit():
            yield (
                int(id),
                AddedToken(
                    text, **{flag: token[flag] for flag in flags if isinstance(token.get(flag), bool)}
                ),
            )


def _whole_characters(text: str) -> str:
    """Halves of surrogate pairs (a broken JSON escape, odd bytes on stdin) joined or replaced."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
