"""An answer to a fixed prompt with the parameters as they are: what a loss does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlxone.core.words import ChatRequest, Failed, Message, Token
from mlxone.models.decoder import Decoder
from mlxone.service.answer import answer, prompt_ids
from mlxone.service.model import Model
from mlxone.training.data.formats import Format, both_turns, turns
from mlxone.training.data.source import Data

MOST_TOKENS = 128
FIRST_WORDS = 8  # of a plain text, to be gone on with


class Sampler:
    def __init__(self, model: Model, data: Data, prompt: str | None = None) -> None:
        """Without a prompt of one's own the first row's is taken, of the valid set if there is one."""
        self._model = model
        row = (data.valid or data.train)[0].value
        self.prompt, self.request = (
            (prompt, _asked(model, prompt, data.format))
            if prompt is not None
            else _of_row(model, row, data.format)
        )
        prompt_ids(model, self.request)  # refuses what cannot be asked

    def answer(self, decoder: Decoder) -> str:
        """Of the model with another decoder; the likeliest token is always taken."""
        text = ""
        for event in answer(replace(self._model, decoder=decoder), self.request):
            if isinstance(event, Token):
                text += event.text
            elif isinstance(event, Failed):
                raise event.error
        return text


def _asked(model: Model, prompt: str, format: Format) -> ChatRequest:
    if format == "text" or model.template is None:  # what is learned is to go on with a text
        return ChatRequest(text=prompt, max_tokens=MOST_TOKENS)
    return ChatRequest(messages=(Message("user", prompt),), max_tokens=MOST_TOKENS)


def _of_row(model: Model, row: Mapping[str, Any], format: Format) -> tuple[str, ChatRequest]:
    if format == "text":
        text = " ".join(row["text"].split()[:FIRST_WORDS])
        return text, ChatRequest(text=text, max_tokens=MOST_TOKENS)
    conversation = both_turns(row)[0] if format == "preference" else turns(row, format)
    last = max((at for at, turn in enumerate(conversation) if turn["role"] == "assistant"), default=None)
    asked = conversation[:last]
    assert model.template is not None  # or the row could not have become tokens
    text = model.template.render(asked, tools=row.get("tools"), add_generation_prompt=True)
    ids = tuple(model.tokenizer.encode_rendered(text))
    return str(asked[-1]["content"]) if asked else "", ChatRequest(ids=ids, max_tokens=MOST_TOKENS)
