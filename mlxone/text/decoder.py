"""Token ids to text while they arrive.

The joined pieces equal the one-shot decode of all ids, whatever the ids are. A token costs the
same however long the text is. Text waits only where a later token can still change it: half a
character, a run of byte tokens, a word's end. A chain of decoder steps that cannot run this way
(no published tokenizer has one) gives its text at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers.decoders import Decoder

from mlxone.text import stages
from mlxone.text.boundary import Guarded
from mlxone.text.stages import Stage

Maker = Callable[[bool], Stage]  # told whether text stands before the first token


class StreamDecoder:
    def __init__(self, piece_of: Callable[[int], str | None], chain: list[Stage], guard: Guarded) -> None:
        self._piece_of = piece_of  # None for an id that has no text
        self._chain = chain
        self._guard = guard

    def add(self, id: int) -> str:
        piece = self._piece_of(id)
        if piece is None:
            return ""
        pieces = [piece]
        with self._guard:
            for stage in self._chain:
                pieces = [ready for piece in pieces for ready in stage.add(piece)]
        return "".join(pieces)

    def finish(self) -> str:
        """What was held back. The decoder is used up then."""
        pieces: list[str] = []
        with self._guard:
            for stage in self._chain:
                pieces = [ready for piece in pieces for ready in stage.add(piece)]
                pieces += stage.end()
        return "".join(pieces)


class DecoderPlan:
    """A tokenizer's decoder, read once; every stream gets stages of its own from it."""

    def __init__(self, decoder: Decoder | None) -> None:
        self._makers = list(_makers(decoder))

    def chain(self, *, started: bool = False) -> list[Stage]:
        return [make(started) for make in self._makers]


def _makers(decoder: Decoder | None) -> Iterable[Maker]:
    if decoder is None:
        return [lambda started: stages.Spaced(started=started)]
    makers, joined = [], False
    for step in _flat(json.loads(decoder.__getstate__())):
        make = _for_text(step) if joined else _for_tokens(step)
        if make is None:
            return [lambda _: stages.Whole(decoder)]
        makers.append(make)
        joined = joined or step["type"] in ("Fuse", "ByteLevel")
    return makers


def _flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if step["type"] == "Sequence":
        for inner in step["decoders"]:
            yield from _flat(inner)
    else:
        yield step


def _for_tokens(step: dict[str, Any]) -> Maker | None:
    own = _library_decoder(step)
    makers: dict[str, Maker] = {
        "ByteLevel": lambda _: stages.ByteLevel(),
        "ByteFallback": lambda _: stages.ByteRun(),
        "Fuse": lambda _: stages.Direct(),
        "Replace": lambda _: stages.Each(own),
        "Strip": lambda _: stages.Each(own),
        "Metaspace": lambda started: stages.FirstDiffers(own, started=started),
        "WordPiece": lambda started: stages.FirstDiffers(own, started=started),
        "BPEDecoder": lambda _: stages.LastDiffers(own),
        "CTC": lambda _: stages.Repeats(own),
    }
    return makers.get(step["type"])


def _for_text(step: dict[str, Any]) -> Maker | None:
    """The same for a bit of text of any length, where the step allows it."""
    if step["type"] == "Fuse":
        return lambda _: stages.Direct()
    if step["type"] == "Strip" and step["stop"] == 0:
        return lambda started: stages.StripStart(step["content"], 0 if started else step["start"])
    if step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1:
        own = _library_decoder(step)
        return lambda _: stages.Each(own)
    return None


def _library_decoder(step: dict[str, Any]) -> Decoder:
    """One step as the library's own decoder: read from JSON, as the whole was."""
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    text = json.dumps({"version": "1.0", "added_tokens": [], "decoder": step, "model": model})
    decoder: Decoder = Library.from_str(text).decoder
    return decoder
