"""The archive: what is in it, that the same tree gives the same bytes, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from packer.payload import Manifest, pack
from packer.words import BuildError


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    write(place / "mlxone", b"program", 0o755)
    write(place / "_internal" / "a" / "data.bin", bytes(1000))
    write(place / "_internal" / "ünï" / "empty", b"")
    (place / "_internal" / "link.so").symlink_to("a/data.bin")
    (place / "_internal" / "bare").mkdir()
    return place


def packed(tree: Path, archive: Path | None = None, **how: Any) -> tuple[Manifest, tarfile.TarFile]:
    archive = archive or tree.parent / "archive"
    how.setdefault("kind", "slim")
    manifest = pack(tree, archive, version="1.2.3", level=3, **how)
    content = zstandard.ZstdDecompressor().decompress(archive.read_bytes())
    return manifest, tarfile.open(fileobj=io.BytesIO(content), encoding="utf-8")


def test_another_tar_finds_the_tree_in_it(tree: Path, tmp_path: Path):
    manifest, archive = packed(tree)
    with archive:
        archive.extractall(tmp_path / "out", filter="fully_trusted")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest.text
    (tmp_path / "out" / "manifest.json").unlink()

    def content(root: Path) -> dict[str, Any]:
        return {
            str(path.relative_to(root)): os.readlink(path) if path.is_symlink()
            else path.is_file() and (path.read_bytes(), path.stat().st_mode)
            for path in root.rglob("*")
        }  # fmt: skip

    assert content(tmp_path / "out") == content(tree)


def test_the_manifest_lists_every_file_and_link_but_itself(tree: Path):
    manifest, _ = packed(tree)
    assert json.loads(manifest.text) == {
        "version": "1.2.3",
        "kind": "slim",
        "files": {
            "_internal/a/data.bin": {
                "sha256": hashlib.sha256(bytes(1000)).hexdigest(),
                "size": 1000,
                "mode": "0644",
            },
            "_internal/link.so": {"link": "a/data.bin"},
            "_internal/ünï/empty": {"sha256": hashlib.sha256(b"").hexdigest(), "size": 0, "mode": "0644"},
            "mlxone": {"sha256": hashlib.sha256(b"program").hexdigest(), "size": 7, "mode": "0755"},
        },
    }
    assert manifest.size == 1007


def test_the_runtime_is_named_after_the_version_and_the_manifest(tree: Path):
    manifest, _ = packed(tree)
    assert manifest.name == "1.2.3-" + hashlib.sha256(manifest.text).hexdigest()[:16]
    assert packed(tree, kind="full")[0].name != manifest.name


def test_the_manifest_comes_first_and_folders_before_what_is_in_them(tree: Path):
    names = packed(tree)[1].getnames()
    assert names[0] == "manifest.json"
    assert names[1:] == sorted(names[1:])
    assert all(str(Path(name).parent) in [".", *names[:i]] for i, name in enumerate(names))


def test_times_owners_and_umask_leave_no_trace(tree: Path, tmp_path: Path):
    before = packed(tree, tmp_path / "before")[0]
    again = tmp_path / "elsewhere" / "copy"
    shutil.copytree(tree, again, symlinks=True)
    for path in again.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
            os.utime(path, (1, 1))
    assert packed(again, tmp_path / "after")[0] == before
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_hard_links_are_files_of_their_own(tree: Path):
    os.link(tree / "mlxone", tree / "twin")
    archive = packed(tree)[1]
    assert archive.getmember("twin").isreg() and archive.extractfile("twin").read() == b"program"


def test_zstd_knows_the_size_and_guards_the_content(tree: Path):
    packed(tree)
    content = (tree.parent / "archive").read_bytes()
    told = zstandard.get_frame_parameters(content)
    assert told.has_checksum
    assert told.content_size == len(zstandard.ZstdDecompressor().decompress(content))


def test_long_paths_are_split_as_ustar_does_or_refused(tree: Path):
    deep = "/".join(["x" * 70] * 3)
    write(tree / deep, b"deep")
    assert packed(tree)[1].extractfile(deep).read() == b"deep"
    write(tree / ("y" * 120), b"")
    with pytest.raises(BuildError, match="yyy.* cannot be packed"):
        packed(tree)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "a/../../../outside", "../.."])
def test_links_out_of_the_tree_are_refused(tree: Path, target: str):
    (tree / "_internal" / "out").symlink_to(target)
    with pytest.raises(BuildError, match="outside the tree"):
        packed(tree)


def test_links_within_it_may_go_up(tree: Path):
    (tree / "_internal" / "a" / "up").symlink_to("../../mlxone")
    assert packed(tree)[0].files["_internal/a/up"] == {"link": "../../mlxone"}


@pytest.mark.parametrize("name", [b"two\nlines", b"no\xffutf-8", b"bell\x07"])
def test_names_that_cannot_be_written_everywhere_are_refused(tree: Path, name: bytes):
    try:
        Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).touch()
    except OSError:
        pytest.skip("this file system refuses such names itself")
    with pytest.raises(BuildError, match="unprintable"):
        packed(tree)


@pytest.mark.parametrize("name", ["manifest.json", "stamp"])
def test_names_the_launcher_needs_are_refused_at_the_top_only(tree: Path, name: str):
    write(tree / "_internal" / name, b"fine")
    packed(tree)
    write(tree / name, b"")
    with pytest.raises(BuildError, match=f"a {name} of its own"):
        packed(tree)


def test_anything_but_files_folders_and_links_is_refused(tree: Path):
    os.mkfifo(tree / "pipe")
    with pytest.raises(BuildError, match="pipe cannot be packed: it is neither"):
        packed(tree)


@pytest.mark.parametrize("mode", ["r+b", "ab", "wb"], ids=["overwritten", "longer", "shorter"])
def test_a_file_that_changes_meanwhile_is_noticed(tree: Path, monkeypatch: pytest.MonkeyPatch, mode: str):
    digest = hashlib.file_digest

    def grows(file: Any, name: str) -> Any:
        try:
            return digest(file, name)
        finally:
            with open(file.name, mode) as again:
                again.write(b"other")

    monkeypatch.setattr(hashlib, "file_digest", grows)
    with pytest.raises(BuildError, match="changed while it was packed"):
        packed(tree)


@given(
    st.dictionaries(
        st.text("ab/", min_size=1, max_size=6).filter(lambda n: "/" not in n), st.binary(max_size=2000)
    )
)
def test_any_files_come_back(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]):
    tree = tmp_path_factory.mktemp("any") / "tree"
    tree.mkdir()
    for name, content in files.items():
        write(tree / name, content)
    manifest, archive = packed(tree)
    assert {name: archive.extractfile(name).read() for name in manifest.files} == files
