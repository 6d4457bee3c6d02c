"""The systemd unit and the Containerfile name things that exist, and promise what the server keeps."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from mlxone.cli.group import group
from mlxone.cli.serve_values import variable
from mlxone.core.errors import EXIT_CODES
from mlxone.core.settings import SERVE_SETTINGS
from packer.release import ROOT

UNIT = ROOT / "packaging/systemd/mlxone.service"
CONTAINERFILE = ROOT / "packaging/Containerfile"


def settings_of(text: str) -> dict[str, list[str]]:
    """Of a unit: name -> its values, in order. What is commented out is not there."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if re.match(r"[A-Z]\w*=", line):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def instructions() -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n", " ", CONTAINERFILE.read_text(encoding="utf-8")).splitlines()
    split = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    return [(name.upper(), rest) for name, rest in split]


def unknown_words(words: list[str]) -> list[str]:
    """The verb and flags of a command line that the program does not have."""
    context = click.Context(group)
    verb = group.get_command(context, words[0])
    if verb is None:
        return [words[0]]
    known = {flag for parameter in verb.params for flag in parameter.opts + parameter.secondary_opts}
    return [word for word in words[1:] if word.startswith("-") and word.split("=")[0] not in known]


def variables() -> set[str]:
    return {variable(s) for s in SERVE_SETTINGS} | {"MLXONE_HOME"}


def test_a_wrong_flag_would_be_found():
    assert unknown_words(["serve", "--nonsense", "1"]) == ["--nonsense"]
    assert unknown_words(["nonsense"]) == ["nonsense"]


def test_the_unit_starts_a_command_that_exists():
    [start] = settings_of(UNIT.read_text())["ExecStart"]
    program, *words = shlex.split(start)
    assert program == "/usr/local/bin/mlxone" and words[0] == "serve"
    assert unknown_words(words) == []


def test_every_variable_and_flag_in_the_units_comments_exists():
    text = UNIT.read_text(encoding="utf-8")
    assert set(re.findall(r"MLXONE_[A-Z_]+", text)) <= variables()
    for flag in re.findall(r"--(?:grace|model-dir)\b", text):
        assert unknown_words(["serve", flag]) == []
    assert unknown_words(["get"]) == []  # in the comment on downloading


def test_systemd_waits_longer_than_answers_may_go_on():
    unit = settings_of(UNIT.read_text())
    [grace] = [s.default for s in SERVE_SETTINGS if s.flag == "--grace"]
    assert isinstance(grace, float) and int(unit["TimeoutStopSec"][0]) >= 2 * grace
    assert unit["KillSignal"] == ["SIGTERM"] and unit["Restart"] == ["on-failure"]


def test_what_trying_again_cannot_mend_is_not_tried_again():
    codes = {int(code) for code in settings_of(UNIT.read_text())["RestartPreventExitStatus"][0].split()}
    assert codes <= set(EXIT_CODES)
    assert codes.isdisjoint({8, 9, 10, 13, 70})  # the network, the disk, memory, a bug: these may pass


def test_the_folders_of_the_unit_are_those_systemd_makes():
    unit = settings_of(UNIT.read_text())
    environment = dict(value.split("=", 1) for value in unit["Environment"])
    assert environment["MLXONE_HOME"] == f"/var/cache/{unit['CacheDirectory'][0]}"
    assert environment["HOME"] == f"/var/lib/{unit['StateDirectory'][0]}"
    assert unit["EnvironmentFile"] == ["-/etc/mlxone.env"]  # the dash: it need not be there


def test_the_unit_leaves_what_mlxone_reads():
    unit = settings_of(UNIT.read_text())
    assert "ProcSubset" not in unit  # /proc/meminfo
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} <= set(unit["RestrictAddressFamilies"][0].split())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_reads_the_unit(tmp_path: Path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/mlxone", "/bin/sh"))  # one that is here
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    assert done.returncode == 0


def test_the_containerfile_only_copies_the_file():
    assert [name for name, _ in instructions() if name in ("RUN", "ADD", "SHELL", "ONBUILD")] == []
    [copied] = [rest.split() for name, rest in instructions() if name == "COPY"]
    assert [word for word in copied if not word.startswith("--")] == ["mlxone", "/usr/local/bin/mlxone"]


def test_the_containers_system_has_the_c_library():
    assert [rest for name, rest in instructions() if name == "FROM"] == ["debian:bookworm-slim"]  # glibc 2.36


def test_the_container_serves_as_nobody_in_particular():
    said = dict(instructions())
    user = said["USER"].split(":")[0]
    assert user.isdigit() and int(user) > 999
    assert said["ENTRYPOINT"] == '["/usr/local/bin/mlxone"]'
    words = [word.strip(' "') for word in said["CMD"].strip("[]").split(",")]
    assert words == ["serve", "--host", "0.0.0.0"] and unknown_words(words) == []
    assert said["EXPOSE"] == str(next(s.default for s in SERVE_SETTINGS if s.flag == "--port"))
    assert said["STOPSIGNAL"] == "SIGTERM"


def test_the_containers_home_is_on_its_volume():
    said = dict(instructions())
    places = dict(word.split("=", 1) for word in said["ENV"].split())
    assert set(places) == {"HOME", "MLXONE_HOME"}
    assert all(place.startswith(said["VOLUME"] + "/") for place in places.values())


def test_the_container_says_how_to_give_a_key():
    text = CONTAINERFILE.read_text(encoding="utf-8")
    assert "-e MLXONE_API_KEY=" in text
    assert set(re.findall(r"MLXONE_[A-Z_]+", text)) <= variables()
