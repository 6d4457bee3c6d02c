"""The workflows: that they parse, call what exists, upload what they build and may do little."""

from __future__ import annotations

import re
import shlex
import subprocess
from fnmatch import fnmatchcase
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from packer import release

FOLDER = release.ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.yml"))
EXTERNAL = {"gh", "mkdir", "ln"}  # tools of the runner


def load(name: str) -> dict[Any, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def jobs(name: str = "release.yml") -> dict[str, Any]:
    return load(name)["jobs"]


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return job["steps"]


def uses(job: dict[str, Any], action: str) -> list[dict[str, Any]]:
    return [s["with"] for s in steps(job) if s.get("uses", "").startswith(f"actions/{action}@")]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## .", (release.ROOT / "Makefile").read_text(), re.M))


def missing(line: str) -> str | None:
    """What a line calls that is not there; None if all is."""
    program, *words = shlex.split(line)
    if program == "make":
        called = [word for word in words if "=" not in word]
        return next((f"make {w}" for w in called if w not in targets()), None)
    if program == "python3" and words[0] == "-m":
        found = release.ROOT / (words[1].replace(".", "/") + ".py")
        return None if found.is_file() else words[1]
    if program == "sh":
        # What `join` rendered: the installer.
        return None if words[0] == f"release/{release.INSTALLER.name}" else words[0]
    if program in EXTERNAL or program.startswith("$RUNNER_TEMP/"):
        return None
    return None if (release.ROOT / program).is_file() else program


def lines(job: dict[str, Any]) -> list[str]:
    return [line for s in steps(job) for line in s.get("run", "").splitlines() if line.strip()]


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_everything_that_is_run_exists(file):
    called = [line for job in jobs(file.name).values() for line in lines(job)]
    assert called
    assert [(line, missing(line)) for line in called if missing(line)] == []


@pytest.mark.parametrize(
    "line", ["make nonsense", "python3 -m packer.nonsense x", "packaging/nonsense.sh", "sh x"]
)
def test_what_does_not_exist_would_be_found(line: str):
    assert missing(line)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_they_may_read_and_nothing_else(file):
    workflow = load(file.name)
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert more == ({"publish": {"contents": "write"}} if file.name == "release.yml" else {})


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_actions_are_githubs_own_with_their_major_version(file):
    for job in jobs(file.name).values():
        assert job["timeout-minutes"] <= 120
        for step in steps(job):
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
        assert all(given["persist-credentials"] is False for given in uses(job, "checkout"))


def test_a_release_is_a_tag():
    # YAML takes the bare word `on` for true.
    assert load("release.yml")[True] == {"push": {"tags": ["v*"]}}


def test_ci_is_what_is_run_by_hand():
    [job] = jobs("ci.yml").values()
    assert lines(job) == [".ci/run"]


def test_each_platform_is_built_uploaded_and_tried():
    build, smoke = jobs()["build"], jobs()["smoke"]
    built = [row["platform"] for row in build["strategy"]["matrix"]["include"]]
    assert sorted(built) == sorted(release.PLATFORMS)
    [upload] = uses(build, "upload-artifact")
    assert upload["path"] == "release/" and upload["if-no-files-found"] == "error"
    [download] = uses(smoke, "download-artifact")
    assert upload["name"] == download["name"] == "mlxone-${{ matrix.platform }}"
    assert {row["platform"] for row in smoke["strategy"]["matrix"]["include"]} == set(built)


def test_it_is_built_then_proven_then_named():
    called = " ; ".join(lines(jobs()["build"]))
    order = ["check-tag", "make dist", "packaging/macos/sign.sh", "make prove", "packer.release stage"]
    assert [called.index(step) for step in order] == sorted(called.index(step) for step in order)


def test_proofs_take_what_is_there_and_know_that_it_is_signed():
    """A build in their place would be another one, and unsigned."""
    build = jobs()["build"]
    [step] = [s for s in steps(build) if "make prove" in s.get("run", "")]
    assert "if" not in step
    planned = ["make", "--dry-run", "--always-make", "BACKEND=cpu", "prove"]
    done = subprocess.run(planned, cwd=release.ROOT, capture_output=True, text=True, check=True).stdout
    assert "pytest" in done and "tests/binary" in done and "tests/e2e" in done
    assert "build.py" not in done and "make dist" not in done
    told = (release.ROOT / "tests" / "binary" / "test_reproducible.py").read_text(encoding="utf-8")
    assert 'os.environ.get("SIGNED") == "true"' in told and "SIGNED" in build["env"]


def test_either_it_is_built_or_built_and_signed():
    conditions = {s["if"]: s["run"].split()[0] for s in steps(jobs()["build"]) if "if" in s}
    assert conditions == {
        "env.SIGNED != 'true'": "make",
        "env.SIGNED == 'true'": "packaging/macos/keychain.sh",
    }
    assert "secrets.MACOS_CERTIFICATE != ''" in jobs()["build"]["env"]["SIGNED"]


def test_secrets_reach_the_step_that_signs_and_no_other():
    for job in jobs().values():
        for step in steps(job):
            said = set(re.findall(r"secrets\.(\w+)", str(step)))
            assert not said or step["name"] == "Build, sign and notarize"
    signing = next(s for s in steps(jobs()["build"]) if "secrets." in str(s))
    wanted = (release.ROOT / "packaging/macos/keychain.sh").read_text()
    assert set(re.findall(r"\$\{([A-Z_]+):\?\}", wanted)) <= set(signing["env"])
    page = (release.ROOT / "docs/releasing.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in re.findall(r"secrets\.(\w+)", str(signing)))


def test_clean_machines_have_no_python_set_up():
    smoke = jobs()["smoke"]
    assert uses(smoke, "setup-python") == []
    assert [line.split()[0] for line in lines(smoke)] == ["packaging/smoke.sh"]


def test_the_file_that_is_tried_is_the_one_with_the_starter():
    [line] = lines(jobs()["smoke"])
    pattern = line.split()[1].replace('"$PLATFORM"', "linux-x86_64").removeprefix("release/")
    names = [*release.assets("1.2.3", "linux-x86_64").values(), "mlxone-1.2.3-cp311-linux_x86_64.pyz"]
    assert [name for name in names if fnmatchcase(name, pattern)] == ["mlxone-1.2.3-linux-x86_64"]


def test_nothing_is_published_before_all_is_tried_and_joined():
    publish = jobs()["publish"]
    assert jobs()["smoke"]["needs"] == "build" and publish["needs"] == "smoke"
    [download] = uses(publish, "download-artifact")
    assert download == {"pattern": "mlxone-*", "path": "release", "merge-multiple": True}
    called = lines(publish)
    joined = next(i for i, line in enumerate(called) if "packer.release join" in line)
    tried = next(i for i, line in enumerate(called) if "release/install.sh" in line)
    assert joined < tried < len(called) - 1
    assert called[-1].startswith("gh release create") and called[-1].endswith("release/*")
    assert "--verify-tag" in called[-1]
