from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import sysconfig
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from packer import licences, natives
from packer.collect import Collected
from packer.words import BuildError

SITE = Path(sysconfig.get_path("platlib"))


def collected(tree: Path, *modules: str, **files: str) -> Collected:
    return Collected(tree, modules, {name: Path(source) for name, source in files.items()})


def package(folder: Path, metadata: str, **files: str) -> Distribution:
    info = folder / "thing-1.2.dist-info"
    for name, text in {"METADATA": metadata, **files}.items():
        path = info / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    record = "".join(f"{p.relative_to(folder)},,\n" for p in sorted(info.rglob("*")) if p.is_file())
    (info / "RECORD").write_text(record)
    return PathDistribution(info)


HEAD = "Metadata-Version: 2.4\nName: Thing\nVersion: 1.2\n"


# Libraries --------------------------------------------------------------------------------------------


def test_a_library_that_nobody_described_stops_the_build(tmp_path):
    one = collected(tmp_path, **{"libmystery.so.1": "/usr/lib/libmystery.so.1"})
    with pytest.raises(BuildError, match=r"libmystery\.so\.1 is bundled from /usr/lib") as caught:
        licences.bundled_natives(one)
    assert "\n" not in str(caught.value) and "packer/natives.py" in str(caught.value)


@pytest.mark.parametrize("name", ["thing.libs/libmystery-0a1b.so.1", "thing/.dylibs/libmystery.1.dylib"])
def test_nor_may_one_come_inside_a_wheel(tmp_path, name):
    with pytest.raises(BuildError, match="libmystery"):
        licences.bundled_natives(collected(tmp_path, **{name: str(SITE / name)}))


@pytest.mark.parametrize("name", ["libreadline.so.8", "libgdbm.so.6", "libtinfo.so.6", "libncursesw.so.6"])
def test_readline_and_gdbm_are_described_nowhere(name):
    assert natives.describe(name) is None


def test_python_and_packages_own_libraries_speak_for_themselves(tmp_path):
    names = ["libpython3.11.so.1.0", "python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so"]
    files = {name: f"/usr/lib/{name}" for name in names}
    files["thing/core.so"] = str(SITE / "thing" / "core.so")
    files["thing/page.html"] = "/anywhere/page.html"
    assert licences.bundled_natives(collected(tmp_path, **files)) == {}


def test_links_are_no_second_library(tmp_path):
    (tmp_path / "_internal").mkdir()
    (tmp_path / "_internal" / "libmystery.so").symlink_to("thing/libmystery.so")
    assert licences.bundled_natives(collected(tmp_path, **{"libmystery.so": "thing/libmystery.so"})) == {}


def test_the_files_of_one_project_are_told_together(tmp_path):
    files = {name: f"/usr/lib/{name}" for name in ("libcrypto.so.3", "libssl.so.3", "libz.so.1")}
    found = licences.bundled_natives(collected(tmp_path, **files))
    assert {row.name: names for row, names in found.items()} == {
        "OpenSSL": ("libcrypto.so.3", "libssl.so.3"),
        "zlib": ("libz.so.1",),
    }


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("a/libx.so", True),
        ("libx.so.1.2.3", True),
        ("libx.1.dylib", True),
        ("x.solution", False),
        ("so", False),
        ("x.py", False),
    ],
)
def test_what_a_library_is(name, library):
    assert licences.is_library(name) is library


# The table ----------------------------------------------------------------------------------------------


ROWS = [*natives.LIBRARIES, *natives.WITHIN, natives.GLIBC, *natives.WITHOUT_TEXT.values()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_whole(row):
    assert row.name and row.licence and row.copyright and row.source.startswith("https://")
    assert all((licences.TEXTS / f"{text}.txt").read_text(encoding="utf-8").strip() for text in row.texts)
    # These two are a dedication to the public and a licence that asks for no notice.
    assert row.texts or row.licence in ("blessing", "0BSD")


@pytest.mark.parametrize("row", natives.LIBRARIES, ids=lambda row: row.name)
def test_no_row_hides_another(row):
    names = [pattern.replace("*", "so.1") for pattern in row.files]
    assert names and {natives.describe(name) for name in names} == {row}


# Packages -----------------------------------------------------------------------------------------------


def test_a_package_without_a_text_stops_the_build(tmp_path):
    with pytest.raises(BuildError, match="the package Thing carries no licence text"):
        licences.package(package(tmp_path, HEAD))


def test_a_packages_texts_are_all_given(tmp_path):
    texts = {"licenses__LICENSE": "The words.\r\nMore.\r\n", "NOTICE.txt": "A notice.\n", "AUTHORS": "Ann\n"}
    part = licences.package(package(tmp_path, HEAD + "License-Expression: MIT\n", **texts))
    assert part.startswith("Thing 1.2 (a Python package)\nLicence: MIT\n")
    assert all(text in part for text in ("The words.\nMore.\n", "A notice.\n", "Ann\n"))


def test_what_is_linked_into_a_wheel_is_named(tmp_path):
    parts = [
        {"name": "zeta", "version": "2.0", "licenses": [{"license": {"id": "MIT"}}]},
        {"name": "alpha", "version": "1.0", "licenses": [{"expression": "MIT OR Apache-2.0"}]},
        {"name": "silent", "licenses": None},
    ]
    bill = json.dumps({"components": parts})
    part = licences.package(
        package(tmp_path, HEAD, LICENSE="Words.", sboms__x_json="{}", **{"sboms__x.json": bill})
    )
    lines = [line.strip() for line in part.splitlines() if line.startswith("  ")]
    assert lines == ["alpha 1.0 (MIT OR Apache-2.0)", "silent", "zeta 2.0 (MIT)"]


def with_bill(folder: Path, licence: str) -> Distribution:
    part = {
        "name": "crate",
        "version": "3",
        "licenses": [{"expression": licence}],
        "purl": "pkg:cargo/crate@3",
    }
    return package(
        folder,
        HEAD,
        LICENSE="Words.",
        sboms__x_json="{}",
        **{"sboms__x.json": json.dumps({"components": [part]})},
    )


def test_texts_of_what_is_linked_in_stand_at_the_end(tmp_path, monkeypatch):
    thing = with_bill(tmp_path, "(Nonsense-1.0 OR MPL-2.0) AND Unicode-3.0")
    part = licences.package(thing)
    assert "Texts: MPL-2.0, Unicode-3.0, at the end\n" in part and "https://crates.io/crates/NAME" in part
    monkeypatch.setattr(licences, "bootloader", lambda: "PyInstaller")
    monkeypatch.setattr(Collected, "distributions", [thing])
    page = licences.render(collected(tmp_path))
    texts = page.split("Text of ")[1:]
    assert [text.split("\n")[0] for text in texts].count("MPL-2.0") == 1
    assert "UNICODE LICENSE V3" in page and "Mozilla Public License Version 2.0" in page


@pytest.mark.parametrize("licence", ["Nonsense-1.0", "MIT AND Nonsense-1.0", "MIT WITH Nonsense-1.0"])
def test_a_licence_without_a_text_stops_the_build(tmp_path, licence):
    line = r"crate 3, within Thing, is under .*Nonsense-1\.0, and there is no text of Nonsense-1\.0 \(put it"
    with pytest.raises(BuildError, match=line):
        licences.package(with_bill(tmp_path, licence))


def test_no_text_is_there_for_nothing():
    """What no row names is asked for by bills of materials, or by the exception that goes with it."""
    named = {text for row in ROWS for text in row.texts}
    assert {path.stem for path in licences.TEXTS.glob("*.txt")} - named == {
        *("ISC", "LLVM-exception", "MPL-2.0", "Unicode-3.0")
    }


def test_python_without_its_licence_stops_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "lib"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(BuildError, match=r"the licence of Python is in none of .*lib, .*share/doc \(put"):
        licences.python()
    (tmp_path / "LICENSE").write_text("Python's words\n")
    assert licences.python().endswith("\n\nPython's words\n")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize(
    ("system", "place"),
    [
        ("debian", "https://snapshot.debian.org/package/glibc/2.3-4/"),
        ("ubuntu", "https://launchpad.net/ubuntu/+source/glibc/2.3-4"),
    ],
)
def test_glibc_is_told_with_its_version_and_source(monkeypatch, system, place):
    version = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": system})
    monkeypatch.setattr(shutil, "which", lambda _: "dpkg-query")
    monkeypatch.setattr(licences, "_told", lambda _: "glibc 2.3-4")
    row = licences.c_library(licences.Debian())
    assert row.name.startswith(f"GNU C Library {version} (") and row.texts == ("LGPL-2.1",)
    assert row.source == f"https://ftp.gnu.org/gnu/glibc/glibc-{version}.tar.xz; as it was built: {place}"
    monkeypatch.setattr(licences, "_told", lambda _: "")  # no such package: another kind of system
    assert "as it was built" not in licences.c_library(licences.Debian()).source


def test_a_module_of_nobody_stops_the_build(tmp_path):
    with pytest.raises(BuildError, match="the module nobodys_thing"):
        licences.check_modules(collected(tmp_path, "json", "click.core", "nobodys_thing.inner"))


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(licences, "bootloader", lambda: "PyInstaller")  # a tool of the build only
    page = licences.render(
        collected(tmp_path, "json.decoder", "click.core", "h11", **{"libz.so.1": "/nowhere/libz.so.1"})
    )
    order = [
        "mlxone itself",
        "click 8",
        "h11 0",
        "Python 3",
        "SmolLM2",
        "zlib\nLicence: Zlib",
        "Text of Zlib",
    ]
    places = [page.index(words) for words in order]
    assert places == sorted(places) and page.count("Text of Zlib") == 1
    assert page == licences.render(
        collected(tmp_path, "h11", "click", "json", **{"libz.so.1": "/nowhere/libz.so.1"})
    )
