"""Which of the words on the command line is the model, and which the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlxone.core.errors import UsageError


def split_positionals(
    words: Sequence[str],
    model: str | None,
    prompt: str | None,
    looks_like_model: Callable[[str], bool],
) -> tuple[str | None, str | None]:
    """`model` and `prompt` are the flags' values: a flag always decides, a word takes what is left."""
    open_places = [name for name, flag in (("MODEL", model), ("PROMPT", prompt)) if flag is None]
    if len(words) > len(open_places):
        raise _too_many(words, open_places)
    if len(words) == 2:
        model, prompt = words
    elif len(words) == 1:
        word = words[0]
        is_model = open_places == ["MODEL"] or (len(open_places) == 2 and looks_like_model(word))
        model, prompt = (word, prompt) if is_model else (model, word)
    for name, value in (("model", model), ("prompt", prompt)):
        if value is not None and not value.strip():
            raise UsageError(f"the {name} is empty", hint=f"leave it out, or give --{name} a value")
    return model, prompt


def _too_many(words: Sequence[str], open_places: Sequence[str]) -> UsageError:
    if not open_places:
        return UsageError(
            f"{words[0]!r} is one word too many", hint="--model and --prompt already say everything"
        )
    expected = "MODEL and PROMPT are" if len(open_places) == 2 else f"{open_places[0]} is"
    return UsageError(f"{len(words)} words where {expected} expected", hint="put the prompt in quotes")
