"""A watch that remembers, and what both download suites fetch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mlxone.hub import places
from mlxone.hub.download import File, Plan, State, Watch

NAME = "org/model"
WEIGHTS = bytes(range(256)) * 40
FILES = {
    "README.md": b"# A model",
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 600,
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "merges.txt": b"a b",
    "tokenizer.model": b"sp",
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}',
    "consolidated.safetensors": WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
    "original/params.json": b"{}",
    "onnx/model.safetensors": WEIGHTS,
}
NEEDED = set(FILES) - {
    "consolidated.safetensors",
    "pytorch_model.bin",
    "original/params.json",
    "onnx/model.safetensors",
}


class Seen(Watch):
    def __init__(self, then: Callable[[int], None] = lambda held: None) -> None:
        self.total = 0
        self.held: dict[str, int] = {}
        self.history: list[int] = []  # bytes there, over all files
        self.states: dict[str, list[State]] = {}
        self.fetched = -1
        self._then = then

    def begin(self, plan: Plan, held: Mapping[str, int]) -> None:
        self.total, self.held = plan.total_bytes, dict(held)
        self._remember()

    def file(self, file: File, state: State, held: int) -> None:
        self.held[file.name] = held
        states = self.states.setdefault(file.name, [])
        if states[-1:] != [state]:
            states.append(state)
        self._remember()

    def end(self, fetched: int) -> None:
        self.fetched = fetched

    def _remember(self) -> None:
        self.history.append(sum(self.held.values()))
        self._then(self.history[-1])


def in_cache() -> list[Path]:
    """What stands in any snapshot."""
    return [p for p in places.hf_cache().glob("models--*/snapshots/**/*") if not p.is_dir()]


def leftovers() -> set[str]:
    """What is in any blobs folder beside whole blobs."""
    return {p.name.partition(".")[2] for p in places.hf_cache().glob("models--*/blobs/*") if "." in p.name}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
