"""Where in a prompt, in tokens, other prompts may part from it.

After the system part begin other conversations, before the last user message the same one asked
otherwise, and where the answer begins the next turn. A layer state that cannot be cut (it has
overwritten what left its window) is kept at these places, so that what follows need not read the
prompt from its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from mlxone.core.errors import MlxoneError
from mlxone.core.words import ChatRequest, Message
from mlxone.models.decoder import new_state
from mlxone.service.answer import render
from mlxone.service.model import Model

SYSTEM_ROLES = ("system", "developer")


def borders(model: Model, request: ChatRequest, ids: Sequence[int]) -> tuple[int, ...]:
    """Those of the request whose prompt has become `ids`: in order, and all inside the prompt.

    A template may refuse to write a conversation that stops there: then there is no such border.
    """
    if request.messages is None or new_state(model.decoder.spec).cuttable:
        return ()
    found = {_until(model, request, count, ids) for count in _places(request.messages)}
    return tuple(sorted(border for border in found if 0 < border < len(ids)))


def _places(messages: Sequence[Message]) -> Iterator[int]:
    """In messages, as places between them."""
    yield sum(1 for _ in takewhile(lambda message: message.role in SYSTEM_ROLES, messages))
    yield max((at for at, message in enumerate(messages) if message.role == "user"), default=0)
    yield len(messages)


def _until(model: Model, request: ChatRequest, count: int, ids: Sequence[int]) -> int:
    """How many of the ids stand for the first messages alone."""
    if count == 0 or request.messages is None:
        return 0
    values = {**request.template_kwargs, "add_generation_prompt": False, "continue_final_message": False}
    beginning = replace(request, messages=request.messages[:count], template_kwargs=values)
    try:
        text = render(model, beginning)
    except MlxoneError:
        return 0
    pairs = zip(model.tokenizer.encode_rendered(text), ids, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
