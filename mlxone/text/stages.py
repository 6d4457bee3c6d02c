"""The steps of a tokenizer's decoder, each one made to run while the tokens arrive.

A stage takes one piece at a time and gives the pieces that can no longer change; `end` gives what
it held back. Before a stage that joins everything (`Fuse`, `ByteLevel`) a piece is one token,
after it a bit of the one long text. Where a rule looks at one token alone the library's own
decoder is asked, so that its rules live in one place.
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol

from tokenizers.decoders import Decoder


class Stage(Protocol):
    def add(self, piece: str) -> list[str]: ...

    def end(self) -> list[str]: ...


class Whole:
    """Any decoder at all: waits for every token, then decodes once. Right, but not a stream."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._tokens: list[str] = []

    def add(self, piece: str) -> list[str]:
        self._tokens.append(piece)
        return []

    def end(self) -> list[str]:
        return [self._decoder.decode(self._tokens)] if self._tokens else []


class Direct:
    """Nothing to wait for; by itself it is `Fuse`, whose pieces are simply passed on."""

    def add(self, piece: str) -> list[str]:
        return [piece]

    def end(self) -> list[str]:
        return []


class Each(Direct):
    """A rule for one token wherever it stands: `Replace`, `Strip`."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def add(self, piece: str) -> list[str]:
        return [self._decoder.decode([piece])]


class FirstDiffers(Direct):
    """A rule that treats the first token in its own way: `Metaspace`, `WordPiece`."""

    def __init__(self, decoder: Decoder, *, started: bool) -> None:
        self._decoder = decoder
        self._started = started

    def add(self, piece: str) -> list[str]:
        # An empty first token decodes to nothing under both rules, and makes this one a later one.
        before = [""] if self._started else []
        self._started = True
        return [self._decoder.decode([*before, piece])]


class LastDiffers:
    """`BPEDecoder`: a word's end is a space, except at the end of the text. One token waits."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._last: str | None = None

    def add(self, piece: str) -> list[str]:
        ready = [] if self._last is None else [self._decoder.decode([self._last, ""])]
        self._last = piece
        return ready

    def end(self) -> list[str]:
        return [] if self._last is None else [self._decoder.decode([self._last])]


class Repeats(Direct):
    """`CTC`: a token said twice in a row counts once, and one that leaves nothing is no token."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._last: str | None = None

    def add(self, piece: str) -> list[str]:
        if piece == self._last:
            return []
        self._last = piece
        text = self._decoder.decode([piece])
        return [text] if text else []


class Spaced(Direct):
    """No decoder at all: tokens with a space between."""

    def __init__(self, *, started: bool) -> None:
        self._started = started

    def add(self, piece: str) -> list[str]:
        before = " " if self._started else ""
        self._started = True
        return [before + piece]


class ByteRun:
    """`ByteFallback`: a run of byte tokens is characters only if all of it is UTF-8.

    One bad byte, even the last, turns every byte of its run into U+FFFD: so a run waits whole.
    """

    # The library reads the two places as Rust reads a number: a plus sign may stand first.
    _byte = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")

    def __init__(self) -> None:
        self._run = bytearray()

    def add(self, piece: str) -> list[str]:
        if found := self._byte.fullmatch(piece):
            self._run.append(int(found[1], 16))
            return []
        return [*self.end(), piece]

    def end(self) -> list[str]:
        run, self._run = self._run, bytearray()
        try:
            return [run.decode()] if run else []
        except UnicodeDecodeError:
            return ["\ufffd"] * len(run)


class ByteLevel:
    """Each character of a token stands for a byte; half a character waits for its other half."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: str) -> list[str]:
        try:
            data = bytes([_BYTE_OF[char] for char in piece])
        except KeyError:  # an added token: plain text
            data = piece.encode()
        return [self._utf8.decode(data)]

    def end(self) -> list[str]:
        return [self._utf8.decode(b"", final=True)]


def _byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: a byte that prints in Latin-1 is itself, the others follow from U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


class StripStart(Direct):
    """`Strip` after a join: up to `count` characters from the very start of the text."""

    def __init__(self, content: str, count: int) -> None:
        self._content = content
        self._left = count

    def add(self, piece: str) -> list[str]:
        while self._left and piece:
            if piece[0] != self._content:
                self._left = 0
                break
            piece = piece[1:]
            self._left -= 1
        return [piece]
