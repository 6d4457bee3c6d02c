"""What the flags of `run` ask for, as one value, and the request it makes of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxone.core.errors import UsageError
from mlxone.core.settings import BY_NAME, PREFILL_STEP
from mlxone.core.words import ChatRequest, Message, Sampling

if TYPE_CHECKING:
    from mlxone.service.model import Model

# Rows of the settings table that shape the request; all others go into its sampling.
_REQUEST_SETTINGS = ("max_tokens", "ctx_size", "prefill_step")


@dataclass(frozen=True, slots=True)
class Asking:
    """How to answer, whatever is asked; `settings` holds only what was given."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    system: str | None = None
    thinking: bool | None = None
    raw: bool = False
    chat_template: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)  # by id

    @property
    def adapter(self) -> str | None:
        """All of them, together."""
        return "+".join(self.adapters) or None

    def request(
        self, sampling: Sampling, *, messages: tuple[Message, ...] | None = None, text: str | None = None
    ) -> ChatRequest:
        return ChatRequest(
            messages=messages,
            text=text,
            sampling=sampling,
            max_tokens=self.settings.get("max_tokens"),
            context_size=self.settings.get("ctx_size"),
            prefill_step=self.settings.get("prefill_step", PREFILL_STEP),
            stop=self.stop,
            thinking=self.thinking,
            adapter=self.adapter,
        )

    def sampling(self, model: Model) -> Sampling:
        from mlxone.service import defaults

        given = {name: value for name, value in self.settings.items() if name not in _REQUEST_SETTINGS}
        if self.logit_bias:
            given["logit_bias"] = self.logit_bias
        return defaults.sampling_for(model, given)

    def one_shot(self, model: Model, prompt: str) -> ChatRequest:
        if self.raw:
            return self.request(self.sampling(model), text=prompt)
        return self.request(self.sampling(model), messages=self.opening() + (Message("user", prompt),))

    def opening(self) -> tuple[Message, ...]:
        """An empty --system is sent too: some templates speak for themselves where there is none."""
        return () if self.system is None else (Message("system", self.system),)


def asking(flags: Mapping[str, Any]) -> Asking:
    """From the parsed flags of `run`; refuses what contradicts itself."""
    from mlxone.cli.adapters import named_folders
    from mlxone.cli.flags import read_logit_bias

    if flags["raw"]:
        for name in ("system", "chat_template", "thinking"):
            if flags[name] is not None:
                shown = "--" + name.replace("_", "-")
                raise UsageError(f"{shown} has no effect with --raw", hint="leave one of the two out")
    if "" in flags["stop"]:
        raise UsageError("--stop needs a text, not an empty one")
    path = flags["chat_template"]
    return Asking(
        settings={name: flags[name] for name in BY_NAME if flags[name] is not None},
        logit_bias=read_logit_bias(flags["logit_bias"]),
        stop=tuple(flags["stop"]),
        system=flags["system"],
        thinking=flags["thinking"],
        raw=flags["raw"],
        chat_template=Path(path) if path else None,
        adapters=named_folders(flags["adapters"], "--adapter"),
    )
