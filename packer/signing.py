"""Signs what goes onto Macs: every Mach-O file of a tree from the inside out, then the one file around it.

    python -m packer.signing --dry-run PATH…           the commands, here or anywhere
    python -m packer.signing --identity NAME PATH…     sign; a PATH is a tree or an executable
    python -m packer.signing --check PATH…             verify what was signed
    python -m packer.signing --check --notarized PATH… and that Apple's notary knows it

Which files, in which order and by which commands is computed without a Mac; only running them needs one.
The identity `-` signs ad hoc, for trying: without the hardened runtime, as that would refuse libraries
that carry no team, and without a time stamp.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from packer import macho
from packer.words import BuildError

ENTITLEMENTS = Path(__file__).resolve().parents[1] / "packaging" / "macos" / "entitlements.plist"
AD_HOC = "-"
PROGRAM = "mlxone"  # the program of a tree: everything in it is signed before this

Command = list[str]
Runner = Callable[[Command], None]


def sign_tree(tree: Path, identity: str, run: Runner | None = None) -> list[Path]:
    """Signs every Mach-O file of the tree, in the order of `in_order`, and verifies each; returns them.

    Before the tree is packed: a signature changes the file, and with it the manifest. It also puts a new
    file where the old one was, so a tree that shares files with this one by hard links keeps its own.
    """
    files = in_order(tree)
    if not files:
        raise BuildError(f"{tree} holds nothing to sign", "only a tree built on macOS does")
    _run_all([*sign_commands(tree, identity), *check_commands(tree)], run)
    return files


def sign_file(executable: Path, identity: str, run: Runner | None = None) -> None:
    """Signs one executable, the outer file, and verifies it."""
    if macho.kind(executable) != "program":
        raise BuildError(
            f"{executable} is no Mach-O program", "only one that was built on macOS can be signed"
        )
    _run_all([*sign_commands(executable, identity), *check_commands(executable)], run)


def in_order(path: Path) -> list[Path]:
    """What is signed: a tree's libraries, the deepest first, then its programs, `mlxone` last.

    Symbolic links are left alone: what they point to is signed under its own name, once.
    """
    if path.is_file():
        return [path]
    found = [(macho.kind(file), file) for file in _files(path)]
    return [file for _, file in sorted((_place(kind, file, path), file) for kind, file in found if kind)]


def sign_commands(path: Path, identity: str) -> list[Command]:
    return [_sign(file, identity) for file in in_order(path)]


def check_commands(path: Path, *, notarized: bool = False) -> list[Command]:
    """`codesign` for each file. Gatekeeper is asked about the outer executable alone: nothing else is
    downloaded, and what a program unpacks carries no quarantine.

    `--type install` is the assessment that accepts a bare command-line program; `--type execute` says of
    each one that it "does not seem to be an app", notarized or not.
    """
    commands = [["codesign", "--verify", "--strict", "--verbose=2", str(file)] for file in in_order(path)]
    if notarized and path.is_file():
        commands.append(
            ["codesign", "--verify", "--strict", "-R=notarized", "--check-notarization", str(path)]
        )
        commands.append(["spctl", "--assess", "--type", "install", "--verbose=2", str(path)])
    return commands


def _sign(file: Path, identity: str) -> Command:
    hardened = [] if identity == AD_HOC else ["--options", "runtime", "--timestamp"]
    # Entitlements belong to processes: a library's would never be read.
    entitled = ["--entitlements", str(ENTITLEMENTS)] if macho.kind(file) == "program" else []
    return ["codesign", "--force", "--sign", identity, *hardened, *entitled, str(file)]


def _place(kind: str | None, file: Path, tree: Path) -> tuple[bool, bool, int, str]:
    inside = file.relative_to(tree)
    return (kind == "program", inside == Path(PROGRAM), -len(inside.parts), inside.as_posix())


def _files(tree: Path) -> Iterable[Path]:
    for folder, _, names in os.walk(tree):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                yield file


def _run_all(commands: list[Command], run: Runner | None) -> None:
    if run is None:
        missing = {command[0] for command in commands if not shutil.which(command[0])}
        if missing:
            raise BuildError(
                f"no {' and no '.join(sorted(missing))} here", "signing needs macOS; --dry-run does not"
            )
    for command in commands:
        (run or _run)(command)


def _run(command: Command) -> None:
    print(shlex.join(command), flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise BuildError(f"{command[0]} ended with {done.returncode}: {shlex.join(command)}")


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m packer.signing", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a tree (build/tree-full) or an executable"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--identity", help="the certificate's name in the keychain, or - to sign ad hoc")
    what.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    what.add_argument("--check", action="store_true", help="verify the signatures")
    parser.add_argument("--notarized", action="store_true", help="with --check: and that they are notarized")
    chosen = parser.parse_args(words)
    if chosen.notarized and not chosen.check:
        parser.error("--notarized goes with --check")
    return chosen


def main(words: list[str] | None = None) -> None:
    chosen = _arguments(words)
    for path in chosen.paths:
        if not path.exists():
            raise BuildError(f"{path} is not there", "build first")
        if chosen.dry_run:
            commands = sign_commands(path, "IDENTITY") + check_commands(path, notarized=True)
            print("\n".join(map(shlex.join, commands)))
        elif chosen.check:
            _run_all(check_commands(path, notarized=chosen.notarized), None)
        elif path.is_dir():
            sign_tree(path, chosen.identity)
        else:
            sign_file(path, chosen.identity)


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        sys.exit(f"signing: {error}")
