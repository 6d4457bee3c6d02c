"""Whole models for the service: scripted ones, and tiny random ones in a folder as users have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxone.backend.arrays import mx
from mlxone.kv.state import ModelState
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
