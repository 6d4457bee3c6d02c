"""THIRD-PARTY-LICENSES.txt: everything that is in the file, with versions and licences.

Packages speak for themselves, with the texts and the bills of materials in their metadata; libraries
of the system that builds are described in `natives.py`. What is bundled and described nowhere, or
under a licence whose text is not in `texts/`, stops the build. Runs with the Python of build/env.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import Distribution
from pathlib import Path

from packer import spdx
from packer.collect import Collected
from packer.natives import GLIBC, WITHIN, WITHOUT_TEXT, Native, describe
from packer.words import BuildError

TEXTS = Path(__file__).with_name("texts")
RULE = "=" * 100
_LICENCE_FILE = re.compile(r"(?i)^(licen[cs]e|copying|notice|authors)")

OPENING = """\
mlxone itself is under the MIT licence, given first. The executable also carries what is listed here,
each part under its own licence; texts that several parts share stand once, at the end.
"""

STARTER = """\
SmolLM2-135M-Instruct (the starter model; not in mlxone-slim)
Licence: Apache-2.0
Made by Hugging Face (HuggingFaceTB). Changed: quantized to 4 bits, rewritten as an MLX snapshot.
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
"""


def render(collected: Collected) -> str:
    """The whole page; BuildError where something bundled is not described."""
    check_modules(collected)
    natives, debian = bundled_natives(collected), Debian()
    packages = sorted(collected.distributions, key=lambda d: d.metadata["Name"].lower() != "mlxone")
    parts = [OPENING, *map(package, packages), python(), bootloader(), STARTER]
    for row in sorted(natives, key=lambda row: row.name.lower()):
        parts.append(native(row, [(f, debian.package(collected.sources[f])) for f in natives[row]]))
    within = [*WITHIN, *([c_library(debian)] if sys.platform == "linux" else [])]
    parts += [native(row, []) for row in within]
    parts += debian.pages()
    spoken_for = (WITHOUT_TEXT.get(d.metadata["Name"].lower()) for d in packages)
    rows = [*natives, *within, *(row for row in spoken_for if row)]
    linked = frozenset[str]().union(*(part.texts for d in packages for part in bill_of_materials(d)))
    parts += map(text_of, sorted({"Apache-2.0", *linked, *(text for row in rows for text in row.texts)}))
    return f"\n{RULE}\n".join(part.rstrip() + "\n" for part in parts)


def text_of(name: str) -> str:
    return f"Text of {name}\n\n{(TEXTS / f'{name}.txt').read_text(encoding='utf-8')}"


# Which library is whose -----------------------------------------------------------------------------


def bundled_natives(collected: Collected) -> dict[Native, tuple[str, ...]]:
    """The libraries that neither Python nor a package's own folder accounts for, with their files."""
    found: dict[Native, tuple[str, ...]] = {}
    for name, source in sorted(collected.sources.items()):
        if (
            not is_library(name)
            or (collected.tree / "_internal" / name).is_symlink()
            or _spoken_for(name, source)
        ):
            continue
        described = describe(Path(name).name)
        if described is None:
            raise BuildError(
                f"{Path(name).name} is bundled from {source}, and nothing says under which licence",
                "describe it in packer/natives.py, or leave it out in packer/contents.py",
            )
        found[described] = (*found.get(described, ()), name)
    return found


def is_library(name: str) -> bool:
    return re.search(r"\.(so|dylib)(\.[\d.]+)?$", name) is not None


def _spoken_for(name: str, source: Path) -> bool:
    """Python's own, or in a package's folder; `NAME.libs`, `.dylibs` hold what wheels took from systems."""
    if re.match(r"(libpython|Python$|Python3$|python3\.\d+/lib-dynload/)", name):
        return True
    vendored = re.search(r"\.(libs|dylibs)/", f"{name}/") is not None
    return not vendored and source.is_relative_to(sysconfig.get_path("platlib"))


def check_modules(collected: Collected) -> None:
    """Every module is the standard library's or a package's."""
    owners = importlib.metadata.packages_distributions()
    tops = sorted({name.split(".")[0] for name in collected.modules})
    for top in tops:
        known = top in sys.stdlib_module_names or top in owners or top.startswith("_sysconfigdata")
        if not known:
            raise BuildError(f"the module {top} is bundled, and no package says that it is its own")


# One part each ----------------------------------------------------------------------------------------


def package(distribution: Distribution) -> str:
    metadata = distribution.metadata
    head = f"{metadata['Name']} {distribution.version} (a Python package)\n"
    texts = list(_licence_texts(distribution))
    row = WITHOUT_TEXT.get(metadata["Name"].lower())
    if not texts and row is None:
        raise BuildError(
            f"the package {metadata['Name']} carries no licence text", "describe it in packer/natives.py"
        )
    if not texts and row:
        head += _statement(row)
    elif "License-Expression" in metadata:
        head += f"Licence: {metadata['License-Expression']}\n"
    within = list(bill_of_materials(distribution))
    if within:
        head += "Linked into it, by its own bill of materials:\n"
        head += "".join(f"  {part}\n" for part in within)
    if any(part.is_crate for part in within):
        head += "Of a crate the source is at https://crates.io/crates/NAME/VERSION\n"
    shared = sorted(frozenset[str]().union(*(part.texts for part in within)))
    if shared:
        head += f"Texts: {', '.join(shared)}, at the end\n"
    return "\n".join([head, *texts])


def python() -> str:
    folders = (Path(sysconfig.get_path("stdlib")), Path(sys.base_prefix), Path(sys.base_prefix) / "share/doc")
    found = next((f / "LICENSE.txt" for f in folders if (f / "LICENSE.txt").is_file()), None)
    found = found or next((f / "LICENSE" for f in folders if (f / "LICENSE").is_file()), None)
    if found is None:
        raise BuildError(
            f"the licence of Python is in none of {', '.join(map(str, folders))}",
            f"put Python {platform.python_version()}'s LICENSE.txt into the first of them",
        )
    return f"Python {platform.python_version()}\nLicence: PSF-2.0\n\n{found.read_text(encoding='utf-8')}"


def c_library(debian: Debian) -> Native:
    """The row of glibc, with the version that is linked here and where exactly its source is."""
    version = platform.libc_ver()[1]
    source = f"https://ftp.gnu.org/gnu/glibc/glibc-{version}.tar.xz"
    as_built = debian.source("libc6-dev")
    if as_built:
        source += f"; as it was built: {as_built}"
    return replace(GLIBC, name=GLIBC.name.replace("Library", f"Library {version}"), source=source)


def bootloader() -> str:
    """PyInstaller is a tool of the build; what is shipped of it are its bootloader and its import hooks."""
    distribution = importlib.metadata.distribution("pyinstaller")
    text = "\n".join(_licence_texts(distribution))
    return f"PyInstaller {distribution.version} (its bootloader)\n\n{text}"


def native(row: Native, files: list[tuple[str, str]]) -> str:
    """One row of the table, and the files in the tree that it stands for, with their origins."""
    return f"{row.name}\n{_statement(row)}" + "".join(f"File: {file}{origin}\n" for file, origin in files)


def _statement(row: Native) -> str:
    texts = f"Text: {', '.join(row.texts)}, at the end\n" if row.texts else ""
    return f"Licence: {row.licence}\n{row.copyright}\n{row.source}\n{texts}"


def _licence_texts(distribution: Distribution) -> Iterator[str]:
    for file in sorted(distribution.files or [], key=str):
        if file.parts[0].endswith(".dist-info") and _LICENCE_FILE.match(file.name):
            yield file.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Part:
    """What is linked into a wheel: its name and version, its licence and the texts that go with it."""

    name: str
    licence: str  # as an SPDX expression; nothing where the wheel says none
    texts: frozenset[str]
    is_crate: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.licence})" if self.licence else self.name


def bill_of_materials(distribution: Distribution) -> Iterator[Part]:
    """What a wheel says of itself (CycloneDX). BuildError where a licence's text is not at hand."""
    for file in distribution.files or []:
        if "sboms" not in file.parts or file.suffix != ".json":
            continue
        parts = json.loads(file.read_text(encoding="utf-8")).get("components", [])
        for part in sorted(parts, key=lambda p: (p["name"].lower(), p.get("version", ""))):
            stated = " AND ".join(
                entry.get("expression") or entry["license"].get("id") or entry["license"].get("name", "")
                for entry in part.get("licenses") or []
            )
            name = " ".join(filter(None, [part["name"], part.get("version")]))
            texts = _texts_for(stated, f"{name}, within {distribution.metadata['Name']},") if stated else ()
            crate = part.get("purl", "").startswith("pkg:cargo/")
            yield Part(name, stated, frozenset(texts), crate)


def _texts_for(licence: str, whose: str) -> frozenset[str]:
    try:
        return spdx.texts(licence, {path.stem for path in TEXTS.glob("*.txt")})
    except spdx.UnknownError as e:
        raise BuildError(
            f"{whose} is under {licence}, and there is no text of {e}", "put it into packer/texts/"
        ) from None


class Debian:
    """Versions and copyright pages of the libraries that came from a Debian system."""

    def __init__(self) -> None:
        self._tool = shutil.which("dpkg-query")
        self._owners: dict[str, list[str]] = {}  # page -> the packages that have it

    def package(self, source: Path) -> str:
        """ " (libffi8 3.4.4-1)" where the file is a package's, else nothing."""
        if self._tool is None:
            return ""
        for path in (source, source.resolve(), Path("/usr") / source.relative_to("/")):
            owner = _told([self._tool, "--search", str(path)]).split(":")[0]
            if owner:
                self._note(owner)
                return (
                    " ("
                    + _told([self._tool, "--show", "--showformat=${Package} ${Version}\n", owner]).split(
                        "\n"
                    )[0]
                    + ")"
                )
        return ""

    def source(self, package: str) -> str:
        """Where the source of this package is, in the version that is installed; nothing elsewhere."""
        if self._tool is None:
            return ""
        wanted = "--showformat=${source:Package} ${source:Version}\n"
        told = _told([self._tool, "--show", wanted, package]).split("\n")[0].split()
        if len(told) != 2:
            return ""
        ubuntu = platform.freedesktop_os_release().get("ID") == "ubuntu"
        pattern = (
            "https://launchpad.net/ubuntu/+source/{}/{}"
            if ubuntu
            else "https://snapshot.debian.org/package/{}/{}/"
        )
        return pattern.format(*told)

    def pages(self) -> list[str]:
        return [f"Debian's page on {', '.join(owners)}\n\n{page}" for page, owners in self._owners.items()]

    def _note(self, owner: str) -> None:
        page = Path("/usr/share/doc") / owner / "copyright"
        if page.is_file():
            owners = self._owners.setdefault(page.read_text(encoding="utf-8", errors="replace"), [])
            if owner not in owners:
                owners.append(owner)


def _told(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
