"""python -m bench.start [--rounds N] [--only NAME]: how soon the built files start, and how large they are.

`make dist` first. Whole processes, taking turns, in homes of their own with no network; the files lie in
the page cache. What it is compared with: the same program as PyInstaller's plain one-file build, which is
made when it is not there (bench/start_plain.py; without the starter, so it has less to unpack than ours),
and `python -m mlxone` of this environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import median, ratio, shown, table
from bench.serve_sides import turns
from bench.start_plain import ROOT, plain_build
from bench.start_sizes import components
from mlxone.hub.places import starter_folder

NAMES = ("version", "ls", "first", "sizes")
MB = {"mlxone-slim": 75, "mlxone": 175}  # bars, by file
FIRST = {"mlxone": 4.0}  # seconds
HEAD = ["what", "mlxone", "beside it", "mlxone / beside it (95 % interval)", "bar"]
OURS, THEIRS = "mlxone", "other"

Command = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Side:
    """A program in a home of its own."""

    command: Command
    home: Path

    def run(self, *words: str) -> float:
        return timed([*self.command, *words], environment(self.home))


def main() -> None:
    args = _arguments()
    only = args.only or NAMES
    print(f"Python {'.'.join(map(str, sys.version_info[:3]))}, {args.rounds} rounds\n", flush=True)
    if {"version", "ls"} & set(only):
        print(table(HEAD, list(warm(args, only))) + "\n", flush=True)
    if "first" in only:
        head = ["first start, `--version`", "seconds, median", "longest", "bar"]
        print(table(head, list(first(args))) + "\n", flush=True)
    if "sizes" in only:
        print(table(["file", "MB", "bar"], list(sizes(args.binary.parent))) + "\n", flush=True)
        with tempfile.TemporaryDirectory(prefix="mlxone-bench-") as home:
            Side([args.binary], Path(home)).run("--version")
            [tree] = (path for path in Path(home, "runtime").iterdir() if path.name[0] != ".")
            print(components(tree))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="runs of each side")
    parser.add_argument("--only", choices=NAMES, action="append", help="may be repeated; all by default")
    parser.add_argument("--binary", type=Path, default=ROOT / "dist" / "mlxone", help="another than dist's")
    parser.add_argument("--plain", type=Path, help="a plain one-file build that is there already")
    args = parser.parse_args()
    args.binary = args.binary.absolute()
    if not args.binary.is_file():
        raise SystemExit(f"there is no {args.binary}: run `make dist` first")
    return args


# Measuring ------------------------------------------------------------------------------------------


def warm(args: argparse.Namespace, only: Sequence[str]) -> Iterator[list[str]]:
    if "version" in only:
        plain = args.plain.absolute() if args.plain else plain_build()
        yield compared("`--version`, ms; plain one-file build", args, [plain], 0.5, "--version")
    if "ls" in only:
        module = [sys.executable, "-P", "-m", "mlxone"]
        yield compared("`ls`, ms; `python -m mlxone`", args, module, 1.6, "ls")


def compared(what: str, args: argparse.Namespace, other: Command, bar: float, word: str) -> list[str]:
    """Both have started before, so that everything is unpacked, compiled and looked up."""
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    with homes(2) as (ours, theirs):
        sides = {OURS: Side([args.binary], ours), THEIRS: Side(other, theirs)}
        for side in sides.values():
            side.run(word)
        for number in range(args.rounds):
            for name in turns(tuple(sides), number):
                seconds[name].append(sides[name].run(word))
    middle = ratio(seconds[OURS], seconds[THEIRS])[0]
    medians = (f"{median(seconds[name]) * 1e3:.0f}" for name in (OURS, THEIRS))
    return [what, *medians, shown(seconds[OURS], seconds[THEIRS]), judged(middle, bar, "×")]


def first(args: argparse.Namespace) -> Iterator[list[str]]:
    """A home that is not there yet, at every start."""
    files = built(args.binary.parent) if args.binary.parent == ROOT / "dist" else [args.binary]
    seconds: dict[Path, list[float]] = {file: [] for file in files}
    for number in range(args.rounds + 1):
        for name in turns([str(file) for file in files], number):
            with homes(1) as (home,):
                taken = Side(_command(Path(name)), home / "new").run("--version")
            if number:  # the first time reads the file from the disk
                seconds[Path(name)].append(taken)
    for file, taken_ in seconds.items():
        bar = FIRST.get(file.name)
        verdict = judged(median(taken_), bar, "s") if bar else ""
        yield [file.name, f"{median(taken_):.2f}", f"{max(taken_):.2f}", verdict]


def sizes(dist: Path) -> Iterator[list[str]]:
    for file in built(dist):
        size = file.stat().st_size / 1e6
        bar = MB.get(file.name)
        yield [file.name, f"{size:.1f}", judged(size, bar, "MB") if bar else ""]


def built(dist: Path) -> list[Path]:
    names = ("mlxone-slim", "mlxone", "mlxone-*.pyz")
    return [file for name in names for file in sorted(dist.glob(name))]


def _command(file: Path) -> Command:
    return [sys.executable, file] if file.suffix == ".pyz" else [file]


@contextmanager
def homes(count: int) -> Iterator[list[Path]]:
    """Empty ones but for the starter, which the built file has inside and a source tree has there."""
    with tempfile.TemporaryDirectory(prefix="mlxone-bench-") as place:
        made = [Path(place, str(index)) for index in range(count)]
        for home in made:
            home.mkdir()
            if starter_folder().is_dir():
                (home / "starter").symlink_to(starter_folder())
        yield made


def environment(home: Path) -> dict[str, str]:
    personal = ("MLXONE_", "HF_", "SHIV_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(personal)}
    places = {"HOME": str(home), "MLXONE_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
    return {**kept, **places, "HF_HUB_OFFLINE": "1"}


def timed(command: Command, environment: Mapping[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def judged(value: float, bar: float, unit: str) -> str:
    return f"<= {bar:g} {unit}: {'met' if value <= bar else '**missed**'}"


if __name__ == "__main__":
    main()
