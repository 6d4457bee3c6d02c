"""python -m bench.registry [--count N]: how long `mlxone ls` takes with a full cache.

Builds a Hugging Face cache of N repos (real configs and headers, holes for weights; 250 different
sets of facts, as most of so many are tuned from a few) and times whole processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import table
from tests.sparse import write_model

LONG_AGO = 1_000_000_000  # files just made are looked at twice
KINDS = 250


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.registry", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="repos in the cache")
    parser.add_argument("--rounds", type=int, default=5, help="warm runs; the median is shown")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlxone-bench-") as place:
        root = Path(place)
        environment = _environment(root)
        build(root / "hub", root / "made", args.count)
        rows = [["cold: no database yet", _shown([timed(environment, args.count)])]]
        warm = [timed(environment, args.count) for _ in range(args.rounds)]
        rows.append([f"warm, median of {args.rounds}", _shown(warm)])
        changed = []
        for i in range(args.rounds):
            add(root / "hub", root / "made", args.count + i)
            changed.append(timed(environment, args.count + i + 1))
        rows.append([f"after one repo more, median of {args.rounds}", _shown(changed)])
        rows.append(["`mlxone --version`, for comparison", _shown([_run(environment, "--version")[0]])])
    print(table([f"mlxone ls, {args.count:,} repos", "seconds"], rows))


def build(cache: Path, made: Path, count: int) -> None:
    write_model(made, "Qwen3.5-4B")
    for index in range(count):
        add(cache, made, index)
    os.utime(cache, (LONG_AGO, LONG_AGO))


def add(cache: Path, made: Path, index: int) -> None:
    """One repo in the cache's layout; all of them share their weights by hard links."""
    repo, commit = cache / f"models--org--model-{index:05}-{index % 40}B-4bit", f"{index:040x}"
    blobs, snapshot = repo / "blobs", repo / "snapshots" / commit
    for folder in (blobs, snapshot, repo / "refs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    for file in made.iterdir():
        if file.name == "config.json":
            config = json.loads(file.read_text())
            config["text_config"]["max_position_embeddings"] = 1000 + index % KINDS
            (blobs / file.name).write_text(json.dumps(config))
        else:
            os.link(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    for path in (snapshot, blobs, repo / "snapshots", repo / "refs" / "main", repo):
        os.utime(path, (LONG_AGO + index, LONG_AGO + index))


def timed(environment: dict[str, str], expected: int) -> float:
    seconds, output = _run(environment, "ls")
    assert output.count("\n") == expected + 1, f"{expected} repos and a header were expected"
    return seconds


def _run(environment: dict[str, str], *words: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mlxone", *words], env=environment, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, done.stdout


def _environment(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLXONE_", "HF_"))}
    home = {"HOME": str(root), "MLXONE_HOME": str(root / "mlxone"), "HF_HUB_CACHE": str(root / "hub")}
    return kept | home


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f}"


if __name__ == "__main__":
    main()
