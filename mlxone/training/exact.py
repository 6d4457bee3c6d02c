"""How often a model says just what the data says: each prompt answered, the likeliest token always taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlxone.core.errors import DataError
from mlxone.core.words import ChatRequest, Failed, Token
from mlxone.service.answer import answer
from mlxone.service.model import Model
from mlxone.training.data.formats import Format, Turns, turns
from mlxone.training.data.rows import Row

SPARE = 16  # tokens beyond those of the expected answer: one that goes on longer is another


@dataclass(frozen=True, slots=True)
class Compared:
    place: str
    expected: str
    said: str

    @property
    def is_match(self) -> bool:
        """Space at the ends does not count."""
        return self.expected.strip() == self.said.strip()


def answers(
    model: Model,
    rows: Sequence[Row],
    format: Format,
    tell: Callable[[int, int], object] = lambda done, of: None,
) -> Iterator[Compared]:
    """The last answer of each conversation beside what the model says there."""
    if format not in ("completion", "messages"):
        raise DataError(
            f"{format} data has no answers to compare with", hint="`prompt` and `completion`, or `messages`"
        )
    for done, row in enumerate(rows):
        tell(done, len(rows))
        yield _compared(model, row, turns(row.value, format))


def _compared(model: Model, row: Row, conversation: Turns) -> Compared:
    last = max((at for at, turn in enumerate(conversation) if turn["role"] == "assistant"), default=None)
    if not last or not isinstance(conversation[last].get("content"), str):
        raise DataError(f"{row.place}: there is no answer to compare with")
    if model.template is None:
        raise DataError(f"{model.name} has no chat template", hint="its answers cannot be compared")
    expected = conversation[last]["content"]
    text = model.template.render(
        conversation[:last], tools=row.value.get("tools"), add_generation_prompt=True
    )
    request = ChatRequest(
        ids=tuple(model.tokenizer.encode_rendered(text)),
        max_tokens=len(model.tokenizer.encode(expected)) + SPARE,
    )
    said = ""
    for event in answer(model, request):
        if isinstance(event, Token):
            said += event.text
        elif isinstance(event, Failed):
            raise event.error
    return Compared(row.place, expected, said)
