"""What is inside: exactly what was built, and no more than was promised."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.binary import elf_paths
from tests.binary.empty_root import Said
from tests.binary.shipped import ROOT, Owner, Shipped

LIMITS = {"slim": 75_000_000, "full": 175_000_000}
OURS_ALONE = {"manifest.json", "stamp"}  # in the runtime directory and not of the tree


def described(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file and link below, as a manifest describes them."""
    found: dict[str, dict[str, Any]] = {}
    for place, _, names in os.walk(folder):
        links = [name for name in os.listdir(place) if Path(place, name).is_symlink()]
        for path in (Path(place, name) for name in {*names, *links}):
            found[str(path.relative_to(folder))] = (
                {"link": os.readlink(path)} if path.is_symlink() else of_file(path)
            )
    return found


def of_file(path: Path) -> dict[str, Any]:
    content, mode = path.read_bytes(), f"{stat.S_IMODE(path.stat().st_mode):04o}"
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "mode": mode}


def without_modes(files: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A build's own files have whatever mode the builder's umask gave; in the payload they are settled."""
    return {name: {k: v for k, v in entry.items() if k != "mode"} for name, entry in files.items()}


def test_what_is_unpacked_is_what_was_built(owner: Owner, shipped: Shipped):
    assert owner.run(shipped.file, "--version") == Said(0, shipped.version_line, "")
    runtime, manifest = owner.runtimes / shipped.runtime_name, shipped.manifest
    assert (runtime / "manifest.json").read_bytes() == shipped.manifest_file.read_bytes()
    unpacked = {name: entry for name, entry in described(runtime).items() if name not in OURS_ALONE}
    assert unpacked == manifest["files"]
    assert without_modes(unpacked) == without_modes(described(shipped.tree))
    assert manifest["kind"] == shipped.kind
    assert {entry["mode"] for entry in unpacked.values() if "mode" in entry} <= {"0644", "0755"}


def test_the_sizes_that_were_promised(shipped: Shipped):
    assert shipped.file.stat().st_size <= LIMITS[shipped.kind]


def test_the_sums_are_those_of_the_files():
    lines = (ROOT / "dist" / "SHA256SUMS").read_text().splitlines()
    told = {line.split(maxsplit=1)[1].lstrip("*"): line.split()[0] for line in lines}
    assert {"mlxone", "mlxone-slim"} <= set(told)
    for name, digest in told.items():
        assert hashlib.sha256((ROOT / "dist" / name).read_bytes()).hexdigest() == digest


def test_the_full_one_is_the_slim_one_and_the_starter(full: Shipped, slim: Shipped):
    files, fewer = full.manifest["files"], slim.manifest["files"]
    more = {name for name in set(files) ^ set(fewer) if not name.startswith("_internal/mlxone_starter/")}
    assert more == set()
    assert {name for name in fewer if files[name] != fewer[name]} <= {"_internal/mlxone/build.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="of ELF files, which only Linux has")
def test_every_library_looks_for_others_beside_itself_alone(full: Shipped):
    """A fixed folder of the builder's machine would be somebody else's on another."""
    files = [path for path in full.tree.rglob("*") if path.is_file() and not path.is_symlink()]
    searched = {str(p.relative_to(full.tree)): elf_paths.searched(p) for p in files if elf_paths.is_elf(p)}
    assert any(searched.values()), "no library says where it looks: this reads them wrongly"
    strange = {name: [f for f in found if not f.startswith("$ORIGIN")] for name, found in searched.items()}
    assert {name: found for name, found in strange.items() if found} == {}


def test_nothing_inside_names_the_machine_it_was_built_on(full: Shipped):
    """Neither its folder nor its venv may be looked for on another one."""
    trace = os.fsencode(ROOT)
    assert [name for name in full.manifest["files"] if trace in (full.tree / name).read_bytes()] == []
    build = json.loads((full.tree / "_internal" / "mlxone" / "build.json").read_text())
    assert set(build) == {"commit", "dirty", "kind"} and build["kind"] == "full"
