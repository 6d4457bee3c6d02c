"""Whole models for the service: scripted ones, and tiny random ones in a folder as users have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxone.backend.arrays import mx
from mlxone.hub.find import Found
from mlxone.kv.state import ModelState
from mlxone.service import loading, shelf
from mlxone.service.model import Model
from mlxone.text.template import ChatTemplate
from mlxone.text.tokenizer import Tokenizer
from tests.engine import tiny
from tests.engine.tiny import ScriptedDecoder
from tests.text import builders

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if enable_thinking is defined %}thinking {{ enable_thinking }}\n{% endif %}"
    "{{ mood }}{% if add_generation_prompt %}assistant:{% endif %}"
)
TOKENIZER: Tokenizer = builders.wrap(builders.byte_level())
EOS = TOKENIZER.eos_id


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def scripted(
    answer: str | Sequence[int],
    *,
    template: str | None = TEMPLATE,
    context_length: int | None = 4096,
    generation_config: Mapping[str, Any] | None = None,
    windows: Sequence[int | None] = (None, None),
) -> Model:
    """A model that says the text and then ends, or draws the ids over and over."""
    script = [*ids_of(answer), EOS] if isinstance(answer, str) else list(answer)
    return Model(
        name="scripted",
        path=Path("scripted"),
        decoder=ScriptedDecoder(script, windows=windows, context_length=context_length),
        tokenizer=TOKENIZER,
        template=None if template is None else ChatTemplate(template),
        eos_token_ids=frozenset({EOS}),
        generation_config=generation_config or {},
    )


def decoder_of(model: Model) -> ScriptedDecoder:
    assert isinstance(model.decoder, ScriptedDecoder)
    return model.decoder


def hold(model: Model, ids: Sequence[int], state: ModelState) -> None:
    """Puts the ids into the states without a draw."""
    model.decoder.hidden(mx.array([list(ids)]), state)


def write_folder(folder: Path, config: dict[str, Any] = tiny.PLAIN, **files: Any) -> Path:
    """A random model with a tokenizer; `files` are more JSON files, or other ones, by stem."""
    tiny.save(folder, config)
    named = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    return builders.write(folder, builders.byte_level(), files.pop("tokenizer_config", named), **files)


def cold_logits(model: Model, ids: Sequence[int]) -> mx.array:
    """The logits of the last position, by one plain pass over everything."""
    return model.forward(ids, model.new_state())[-1]


# Many requests, without weights ---------------------------------------------------------------


class Reciter(ScriptedDecoder):
    """Says the script's token that belongs to the position, whoever else it is working for.

    So an answer is the same alone and among others: position p is followed by script[p % length].
    """

    form = "stored"

    def hidden(self, ids: mx.array, state: ModelState, **how: Any) -> mx.array:
        found = super().hidden(ids, state, **how)
        self.drawn = state.offset  # what `logits` is about to be asked for
        return found


def recited(script: Sequence[int], prompt: int, count: int) -> list[int]:
    """What a `Reciter` answers to a prompt of so many tokens."""
    return [script[(prompt + i) % len(script)] for i in range(count)]


SCRIPT = tuple(range(40, 57))  # ordinary letters of the rig's tokenizer


class Stage:
    """Folders with real configs, tokenizers and headers, whose weights are put aside for a `Reciter`."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.decoders: dict[str, Reciter] = {}
        self.loads: list[str] = []
        self.dress: Callable[[Model], None] = lambda model: None  # what else happens to a loaded model
        real = loading.load_found

        def load_found(found: Found, chat_template: Path | None = None) -> Model:
            model = real(found, chat_template)
            self.loads.append(model.name)
            reciter = self.decoders[model.name] = Reciter(SCRIPT)
            reciter.spec, model.decoder = model.decoder.spec, reciter
            self.dress(model)
            return model

        patch.setattr(shelf, "load_found", load_found)

    def model(self, name: str = "tiny", config: dict[str, Any] = tiny.PLAIN, **files: Any) -> Path:
        folder, key = self.folder / name, json.dumps([config, files])
        if key not in _WRITTEN:
            write_folder(folder, config, **files)
            _WRITTEN[key] = {path.name: path.read_bytes() for path in folder.iterdir()}
        folder.mkdir(exist_ok=True)
        for file, content in _WRITTEN[key].items():
            (folder / file).write_bytes(content)
        return folder


_WRITTEN: dict[str, dict[str, bytes]] = {}  # making weights takes longer than most tests
