"""One model on disk, as the registry knows it: a snapshot folder or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxone.core.facts import ModelFacts

# What a model can do beside answering text; each is a column of `ls` and a filter.
CAPABILITIES = ("vision", "audio", "tools", "thinking", "embedding", "kv-config")

INCOMPLETE = "incomplete: "  # how the problem of half a download begins
GGUF_SUPPORT = "GGUF files are not run directly yet"


@dataclass(frozen=True, slots=True)
class Entry:
    repo: str  # its id on the Hub, or what a folder outside the cache is called
    path: Path
    source: str  # which table row of `hub.sources` found it
    format: str  # "safetensors" or "gguf"
    size_bytes: int  # of all its files
    revision: str | None = None  # commit, in the Hugging Face cache
    canonical: bool = True  # what the repo's name means; older snapshots of it are not
    drafter: bool = False  # a companion that only speeds another model up
    capabilities: frozenset[str] = frozenset()
    license: str | None = None
    problem: str | None = None  # why it cannot be used, in one line: incomplete, damaged
    support: str | None = None  # "" runs here, else the reason why not; None: not judged yet
    facts: ModelFacts | None = None  # None where there is a problem
    scanned_at: float = 0.0
    part: str = ""  # which of several models in a repo it is: a GGUF file's name without its end

    @property
    def repo_id(self) -> str:
        """The repo it is in, which it may share with other GGUF files."""
        return self.repo.removesuffix(f"/{self.part}") if self.part else self.repo

    @property
    def name(self) -> str:
        """What to type: the id, with the commit where it is not the one the id means."""
        return self.repo if self.canonical or not self.revision else f"{self.repo}@{self.revision[:12]}"


def usability(entry: Entry) -> int:
    """2: nothing is known against it; 1: its files are all there; 0: they are not."""
    return 2 if not entry.problem else 0 if entry.problem.startswith(INCOMPLETE) else 1
