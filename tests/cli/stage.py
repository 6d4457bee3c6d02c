"""The rooms below the command line, played: what a model says is written down beforehand.

Run as a program it is `mlxone` with that scripted model, for tests that need a process or a
terminal of their own; `SCRIPT` then names a JSON file, and what the model was asked is appended
to the file of the same name with `.asked`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mlxone.core.errors import ContextOverflow, ModelNotFound
from mlxone.core.words import ChatRequest, Event, Failed, Finished, Progress, Sampling, Stats, Token
from tests.fakes import ScriptedModel

STATS = Stats(
    prompt_tokens=7, generated_tokens=3, prefill_tps=100.0, decode_tps=20.0, peak_memory_bytes=10**9
)


@dataclass
class Stage:
    """`answers` are given one after the other, the last one for ever. One that begins with `!`
    fails with the rest as its message; one that ends in `…` never ends by itself."""

    answers: list[str] = field(default_factory=lambda: ["Paris."])
    piece: int = 1  # characters per token
    prompt_tokens: int = 7
    asked: list[ChatRequest] = field(default_factory=list)
    flags: list[Mapping[str, Any]] = field(default_factory=list)
    loaded: list[tuple[str, Any]] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    looked_in: list[Sequence[str]] = field(default_factory=list)
    closed: int = 0
    load_error: BaseException | None = None
    departures: tuple[str, ...] = ()  # of the model from the published code

    def modules(self) -> dict[str, ModuleType]:
        return {
            "mlxone.service.loading": _module(load=self.load),
            "mlxone.service.answer": _module(answer=self.answer),
            "mlxone.service.memory": _module(Memory=object),
            "mlxone.service.defaults": _module(sampling_for=self.sampling_for),
            "mlxone.hub.find": _module(
                looks_like_model=lambda word: word == "scripted" or "/" in word,
                default_model=lambda: "scripted",
                find=self.find,
                repo_for=self.repo_for,
            ),
            "mlxone.hub.download": _module(plan=self.plan, fetch=self.fetch),
        }

    def load(self, source: str, *, chat_template: Any = None) -> ScriptedModel:
        if self.load_error:
            raise self.load_error
        if source in self.missing:
            raise ModelNotFound(f"no model {source} on this machine", hint=f"mlxone get {source}")
        self.loaded.append((source, chat_template))
        return ScriptedModel(name=source, departures=self.departures)

    def sampling_for(self, model: ScriptedModel, flags: Mapping[str, Any]) -> Sampling:
        self.flags.append(flags)
        return replace(Sampling(temperature=0.7), **flags)

    def find(self, query: str, folders: Sequence[str] = ()) -> Any:
        self.looked_in.append(folders)
        if query in self.missing:
            raise ModelNotFound(f"no model {query} on this machine", hint=f"mlxone get {query}")
        return _module(repo=None if query == "local" else f"org/{query}", path=Path(query), name=query)

    def repo_for(self, query: str) -> str | None:
        return query if re.fullmatch(r"\w+/\w+", query) else {"short": "org/long"}.get(query)

    def plan(self, repo: str, revision: str | None = None, *, include: Any = (), exclude: Any = ()) -> Any:
        return _module(repo=repo, revision=revision, files=(), total_bytes=3_400_000_000)

    def fetch(self, plan: Any, watch: Any, *, to: Path | None = None, verify: bool = False) -> Path:
        watch.begin(plan, {"model.safetensors": 0})
        watch.end(plan.total_bytes)
        self.fetched.append(f"{plan.repo}@{plan.revision}" if plan.revision else plan.repo)
        self.missing.clear()
        return Path("/cache") / plan.repo

    def answer(self, model: ScriptedModel, request: ChatRequest, memory: object = None) -> Iterator[Event]:
        self.asked.append(request)
        text = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return self._events(text)

    def _events(self, text: str) -> Iterator[Event]:
        try:
            yield Progress(self.prompt_tokens, self.prompt_tokens)
            if text.startswith("!"):
                yield Failed(ContextOverflow(text[1:], hint="shorten it"))
                return
            endless = text.endswith("…")
            text = text.removesuffix("…")
            for index in range(0, len(text), self.piece):
                yield Token(index, index, text[index : index + self.piece])
            while endless:
                time.sleep(0.005)
                yield Token(0, 0, "")
            yield Finished(STATS)
        finally:
            self.closed += 1


def _module(**names: Any) -> ModuleType:
    module = ModuleType("scripted")
    module.__dict__.update(names)
    return module


def main() -> int:
    script = Path(os.environ["SCRIPT"])
    stage = Stage(**json.loads(script.read_text()))
    for name, module in stage.modules().items():
        sys.modules[name] = module
        package, _, short = name.rpartition(".")
        setattr(importlib.import_module(package), short, module)  # where the real one was imported already
    from mlxone.cli.main import main

    code = main()
    asked = [[m.as_template() for m in request.messages or ()] for request in stage.asked]
    Path(f"{script}.asked").write_text(json.dumps(asked))
    Path(f"{script}.adapters").write_text(json.dumps([request.adapter for request in stage.asked]))
    return code


if __name__ == "__main__":
    sys.exit(main())
