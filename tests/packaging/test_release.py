"""The files of a release: one set of names in the workflow, the formula and the installer; sums that fit."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxone.cli.group import VERBS
from packer import formula, release
from packer.words import BuildError

VERSION = "1.2.3"
REPOSITORY = "https://forge.example/somebody/mlxone"
FORMULA_FILES = [f"mlxone-{VERSION}-{platform}" for platform in release.PLATFORMS]


def sums() -> dict[str, str]:
    return {name: hashlib.sha256(name.encode()).hexdigest() for name in FORMULA_FILES}


def in_formula(text: str) -> list[tuple[str, str]]:
    return re.findall(r'url "([^"]+)"\n\s*sha256 "([^"]+)"', text)


def test_the_formula_has_each_platforms_address_and_sum():
    text = formula.render(VERSION, REPOSITORY, sums())
    assert sorted(in_formula(text)) == sorted(
        (f"{REPOSITORY}/releases/download/v{VERSION}/{name}", sums()[name]) for name in FORMULA_FILES
    )
    assert f'version "{VERSION}"' in text and f'homepage "{REPOSITORY}"' in text
    assert not re.search(r"@[A-Z0-9_]+@", text)


@pytest.mark.parametrize("name", FORMULA_FILES)
@pytest.mark.parametrize("wrong", [None, "", "0" * 63, "x" * 64])
def test_a_formula_without_a_platforms_sum_is_refused(name: str, wrong: str | None):
    known = {k: v for k, v in (sums() | {name: wrong}).items() if v is not None}
    with pytest.raises(BuildError, match=rf"no SHA-256 of {re.escape(name)}"):
        formula.render(VERSION, REPOSITORY, known)


def test_a_blank_that_nobody_fills_is_refused():
    with pytest.raises(BuildError, match="nothing is known for OTHER"):
        formula.fill("@VERSION@ @OTHER@", {"VERSION": VERSION})


@pytest.mark.skipif(not shutil.which("ruby"), reason="no ruby here")
def test_ruby_reads_the_formula(tmp_path: Path):
    rendered = tmp_path / "mlxone.rb"
    rendered.write_text(formula.render(VERSION, REPOSITORY, sums()), encoding="utf-8")
    for file in (formula.TEMPLATE, rendered):
        done = subprocess.run(["ruby", "-wc", str(file)], capture_output=True, text=True, check=False)
        assert (done.stdout.strip(), done.stderr) == ("Syntax OK", "")


def test_the_formula_asks_the_program_for_its_completions_and_tries_it():
    text = formula.TEMPLATE.read_text(encoding="utf-8")
    asked = re.search(
        r'generate_completions_from_executable\(bin/"mlxone", "(\w+)", shells: \[(.*)\]\)', text
    )
    assert asked and asked[1] in VERBS
    assert re.search(r"^  test do\n.*mlxone --version.*mlxone run ", text, re.M | re.S)


def built(folder: Path, platform: str) -> Path:
    """What `make dist` leaves."""
    folder.mkdir()
    for name in (
        *release.assets(VERSION, platform),
        f"mlxone-cp311-{platform.replace('-', '_')}.pyz",
        "SHA256SUMS",
    ):
        (folder / name).write_text(f"{name} for {platform}")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    for platform in release.PLATFORMS:
        release.stage(platform, VERSION, built(tmp_path / platform, platform), tmp_path / "release")
    return tmp_path / "release"


def test_every_file_is_staged_under_a_name_of_its_own(staged: Path):
    names = {file.name for file in staged.iterdir()}
    for platform in release.PLATFORMS:
        assert {
            f"mlxone-{VERSION}-{platform}",
            f"mlxone-slim-{VERSION}-{platform}",
            f"mlxone-{VERSION}-{platform}-licenses.txt",
            f"mlxone-{VERSION}-cp311-{platform.replace('-', '_')}.pyz",
        } <= names
    assert len(names) == 4 * len(release.PLATFORMS)
    assert (staged / f"mlxone-slim-{VERSION}-linux-arm64").read_text() == "mlxone-slim for linux-arm64"


@pytest.mark.parametrize(
    "name", ["mlxone", "mlxone-slim", "THIRD-PARTY-LICENSES.txt", "mlxone-cp311-linux_arm64.pyz"]
)
def test_a_build_that_lacks_a_file_is_not_staged(tmp_path: Path, name: str):
    folder = built(tmp_path / "dist", "linux-arm64")
    (folder / name).unlink()
    with pytest.raises(BuildError, match="zipapp" if name.endswith("pyz") else re.escape(name)):
        release.stage("linux-arm64", VERSION, folder, tmp_path / "release")


def test_the_joined_sums_are_true_and_name_everything(staged: Path):
    release.join(VERSION, REPOSITORY, staged)
    lines = (staged / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == {f.name for f in staged.iterdir()} - {"SHA256SUMS"}
    checker = ["sha256sum"] if shutil.which("sha256sum") else ["shasum", "-a", "256"]
    subprocess.run([*checker, "--check", "SHA256SUMS"], cwd=staged, check=True, capture_output=True)


def test_joining_again_gives_the_same(staged: Path):
    release.join(VERSION, REPOSITORY, staged)
    first = {file.name: file.read_bytes() for file in staged.iterdir()}
    release.join(VERSION, REPOSITORY, staged)
    assert {file.name: file.read_bytes() for file in staged.iterdir()} == first


def test_a_platform_that_is_missing_stops_the_release(staged: Path):
    (staged / f"mlxone-slim-{VERSION}-macos-arm64").unlink()
    with pytest.raises(BuildError, match=f"mlxone-slim-{VERSION}-macos-arm64"):
        release.join(VERSION, REPOSITORY, staged)
    assert not (staged / "SHA256SUMS").exists()


def test_the_formula_of_a_release_has_its_sums(staged: Path):
    release.join(VERSION, REPOSITORY, staged)
    found = {url.rsplit("/", 1)[1]: digest for url, digest in in_formula((staged / "mlxone.rb").read_text())}
    assert found == {n: hashlib.sha256((staged / n).read_bytes()).hexdigest() for n in FORMULA_FILES}


def test_the_installer_of_a_release_knows_where_it_came_from(staged: Path):
    release.join(VERSION, REPOSITORY, staged)
    text = (staged / "install.sh").read_text()
    assert f"version='{VERSION}'" in text and f"downloads='{REPOSITORY}/releases/download'" in text


def test_one_set_of_names():
    """The workflow's matrix, the formula's addresses, the installer's platforms."""
    workflow = (release.ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    template = formula.TEMPLATE.read_text(encoding="utf-8")
    installer = (release.ROOT / release.INSTALLER).read_text(encoding="utf-8")
    assert set(re.findall(r"platform: ([\w-]+),", workflow)) == set(release.PLATFORMS)
    assert set(re.findall(r"mlxone-@VERSION@-([\w-]+)\"", template)) == set(release.PLATFORMS)
    assert set(re.findall(r"(?:name=|echo )((?:linux|macos)-\w+)", installer)) == set(release.PLATFORMS)
    named = re.search(r"asset=(mlxone)\$\{slim:\+(-slim)\}-\$version-\$\(platform\)", installer)
    assert named
    for platform in release.PLATFORMS:
        names = release.assets("V", platform)
        assert names["mlxone"] == f"{named[1]}-V-{platform}"
        assert names["mlxone-slim"] == f"{named[1]}{named[2]}-V-{platform}"


def test_one_least_macos():
    """The runner that builds, what the formula asks for and what the installer refuses."""
    workflow = (release.ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    installer = (release.ROOT / release.INSTALLER).read_text(encoding="utf-8")
    built_on = re.search(r"platform: macos-arm64, runner: macos-(\d+) ", workflow)
    least = re.search(r"^least_macos=(\d+)", installer, re.M)
    assert built_on and least and built_on[1] == least[1] == "15"
    assert "depends_on macos: :sequoia" in formula.TEMPLATE.read_text(encoding="utf-8")


def test_the_version_is_that_of_the_package():
    import mlxone

    assert release.version() == mlxone.__version__
    release.check_tag(f"v{mlxone.__version__}", release.version())
    for tag in (mlxone.__version__, "v0", f"v{mlxone.__version__}.0"):
        with pytest.raises(BuildError, match="the sources are"):
            release.check_tag(tag, release.version())


def test_the_notes_are_the_changelogs_part():
    text = "# Log\n\n## Unreleased\n\n- new\n\n## 1.2.3 (2026-12-01)\n\n- a\n- b\n\n## 1.2.30\n\n- c\n"
    assert release.notes("1.2.3", text) == "- a\n- b\n"
    assert release.notes("1.2.30", text) == "- c\n"
    for version in ("1.2", "2.0", "1x2.3"):
        with pytest.raises(BuildError, match="CHANGELOG"):
            release.notes(version, text)


def test_it_runs_where_nothing_is_installed():
    import sys

    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import sys; sys.path.insert(0, '.'); import packer.release, packer.signing",
        ],
        cwd=release.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
