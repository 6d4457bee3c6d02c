"""What a release is made of: the names of its files, their joined sums, and what is rendered from both.

    python -m packer.release stage --platform linux-x86_64 dist release   one platform's files, named
    python -m packer.release join --repository URL release                all platforms': sums and formula
    python -m packer.release notes                                        the changelog's part on this version
    python -m packer.release check-tag v0.1.0                             the tag is that of the sources

Standard library only: it runs on machines where nothing is set up. A file that is missing stops it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from packer import formula, sums
from packer.words import BuildError

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = ("linux-x86_64", "linux-arm64", "macos-arm64")
INSTALLER = Path("packaging/install.sh")


def version(root: Path = ROOT) -> str:
    """As the sources say it, read without importing them: nothing is installed where this runs."""
    found = re.search(r'^__version__ = "([^"]+)"$', (root / "mlxone" / "__init__.py").read_text(), re.M)
    if not found:
        raise BuildError("mlxone/__init__.py says no __version__")
    return found[1]


def assets(number: str, platform: str) -> dict[str, str]:
    """A platform's executables: the name `make dist` gives -> the name in a release."""
    return {
        "mlxone": f"mlxone-{number}-{platform}",
        "mlxone-slim": f"mlxone-slim-{number}-{platform}",
        "THIRD-PARTY-LICENSES.txt": f"mlxone-{number}-{platform}-licenses.txt",
    }


def stage(platform: str, number: str, dist: Path, into: Path) -> list[Path]:
    """Copies what was built, under the names of a release."""
    archives = sorted(dist.glob("mlxone-*.pyz"))
    named = assets(number, platform) | {a.name: a.name.replace("-", f"-{number}-", 1) for a in archives}
    missing = [name for name in named if not (dist / name).is_file()]
    if missing or not archives:
        raise BuildError(f"{dist} lacks {', '.join(missing) or 'the zipapp'}", "make dist builds them all")
    into.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(dist / old, into / new)) for old, new in named.items()]


def join(number: str, repository: str, folder: Path) -> None:
    """Adds to the staged files of all platforms: the formula, the installer, then the sums of everything."""
    downloads = f"{repository}/releases/download"
    expected = [name for platform in PLATFORMS for name in assets(number, platform).values()]
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        raise BuildError(f"{folder} lacks {', '.join(missing)}", "every platform has to be staged first")
    staged, added = _files(folder), [folder / "mlxone.rb", folder / "install.sh"]
    digests = {file.name: sums.digest(file) for file in staged}
    added[0].write_text(formula.render(number, repository, digests), encoding="utf-8")
    added[1].write_text(installer(number, downloads), encoding="utf-8")
    sums.write(folder, [*staged, *added])


def installer(number: str, downloads: str) -> str:
    """packaging/install.sh, told which version it installs and from where."""
    text = (ROOT / INSTALLER).read_text(encoding="utf-8")
    return formula.fill(text, {"VERSION": number, "DOWNLOADS": downloads})


def notes(number: str, changelog: str) -> str:
    """What the changelog says under `## VERSION`."""
    found = re.search(rf"^## {re.escape(number)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if not found or not found[1].strip():
        raise BuildError(
            f"CHANGELOG.md says nothing under '## {number}'", "a release begins by naming its changes"
        )
    return found[1].strip() + "\n"


def check_tag(tag: str, number: str) -> None:
    if tag != f"v{number}":
        raise BuildError(
            f"the tag is {tag}, the sources are {number}", f"tag v{number}, or change __version__"
        )


def _files(folder: Path) -> list[Path]:
    """What was staged; what an earlier join added is made anew."""
    made = {sums.SUMS, "mlxone.rb", "install.sh"}
    return [file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in made]


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m packer.release", description=(__doc__ or "").split("\n")[0]
    )
    steps = parser.add_subparsers(required=True, metavar="STEP", dest="step")
    one = steps.add_parser("stage", help="name the files of one platform")
    one.add_argument("--platform", choices=PLATFORMS, required=True)
    one.add_argument("dist", type=Path)
    one.add_argument("into", type=Path)
    all_of_them = steps.add_parser("join", help="add sums, formula and installer to all platforms' files")
    all_of_them.add_argument("--repository", required=True, help="its address: releases are found below it")
    all_of_them.add_argument("folder", type=Path)
    steps.add_parser("notes", help="print the changelog's part on this version")
    steps.add_parser("check-tag", help="compare a tag with the sources").add_argument("tag")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    chosen = _arguments(words)
    number = version()
    steps: dict[str, Callable[[], object]] = {
        "stage": lambda: print(*stage(chosen.platform, number, chosen.dist, chosen.into), sep="\n"),
        "join": lambda: join(number, chosen.repository.rstrip("/"), chosen.folder),
        "notes": lambda: print(notes(number, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")), end=""),
        "check-tag": lambda: check_tag(chosen.tag, number),
    }
    steps[chosen.step]()


if __name__ == "__main__":
    try:
        main()
    except BuildError as error:
        sys.exit(f"release: {error}")
