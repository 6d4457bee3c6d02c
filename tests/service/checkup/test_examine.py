"""All checks together, on this machine and on broken ones."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxone.cli import doctor
from mlxone.core import about
from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import places, starter
from mlxone.service.checkup import device, examine, program
from mlxone.service.checkup.device import Told
from mlxone.service.checkup.findings import Finding, ok
from mlxone.service.here import learned_store
from tests.hub.conftest import fake_hub as fake_hub  # a fixture: this name is what asks for it
from tests.hub.fake_hub import FakeHub
from tests.hub.shelves import model, repo
from tests.service.checkup.test_program import flip, unpack

EVERYWHERE = [
    "program", "packages", "mlx", "memory", "home", "config", "registry", "hub cache", "temporary", "disk",
    "starter", "model", "network", "environment",
]  # fmt: skip


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """All findings by name; MLX says what it is told to, as its process takes half a second."""

    def run(
        told: Told | None = None, offline: bool = False, read_config: Callable[[], object] = lambda: None
    ) -> dict[str, Finding]:
        facts = {"kind": "apple", "mlx": "1", "name": "M9"}
        monkeypatch.setattr(device, "ask", lambda: told or Told(facts))
        found = list(examine.examine(offline=offline, read_config=read_config))
        assert all(f.fix for f in found if f.status != "ok")  # it always says what to do
        assert all("\n" not in f.message + f.fix for f in found)
        assert json.dumps([f.to_json() for f in found])
        assert len({f.name for f in found}) == len(found)
        return {f.name: f for f in found}

    return run


def test_every_check_has_its_say(examined):
    found = examined()
    assert list(found) == EVERYWHERE
    assert {name for name, f in found.items() if f.status == "fail"} == set()
    assert found["network"].message == "HF_HUB_OFFLINE is set: nothing is fetched"
    assert "network" not in examined(offline=True)


def test_what_is_looked_at_is_told_beforehand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "ask", lambda: Told(trouble="none here"))
    history: list[str] = []
    for found in examine.examine(offline=True, read_config=lambda: None, begins=history.append):
        assert found.name in (history[-1], "environment")


def test_nothing_is_made_by_looking(examined, home: Path):
    examined(offline=True)
    made = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert {name.partition("-")[0] for name in made} <= {"mlxone/registry.sqlite"}


def test_no_mlx_is_a_failure_and_the_rest_goes_on(examined):
    found = examined(Told(trouble="MLX cannot be loaded: no"))
    assert found["mlx"].status == "fail"
    assert list(found) == EVERYWHERE


def test_a_home_that_is_a_file(examined):
    places.home().touch()
    found = examined()
    assert found["home"].status == "fail" and "MLXONE_HOME" in found["home"].fix
    assert [name for name, f in found.items() if f.status != "ok"] == ["home", "starter"]


def test_a_home_that_nobody_can_use_is_one_finding(examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    for name in ("HOME", "MLXONE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / f"mlxone-{os.geteuid()}").touch()
    bad = [f for f in examined(read_config=doctor.read_config).values() if f.status != "ok"]
    assert [(f.name, f.fix) for f in bad] == [("home", "set HOME, or MLXONE_HOME")]


def test_what_was_learned_is_damaged(examined):
    places.home().mkdir()
    learned = places.home() / "learned.sqlite"
    learned.write_bytes(bytes(range(256)) * 64)
    found = examined()["home"]
    assert found.status == "warn" and f"{learned} is damaged" in found.message
    assert learned.read_bytes() == bytes(range(256)) * 64
    with learned_store() as store:  # as the next run does
        store.put("a", 1)
    assert examined()["home"].status == "ok"


# The model that a command without one would use.


def test_a_model_that_is_not_there(examined, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLXONE_MODEL", "zzz")
    found = examined()
    assert found["model"].status == "fail"
    assert found["model"].message.startswith("MLXONE_MODEL names 'zzz': no model on this machine matches")
    assert found["model"].fix.startswith("correct MLXONE_MODEL: ")
    assert found["starter"].status == "ok"  # nobody asks for it


def test_a_model_that_is(examined, monkeypatch: pytest.MonkeyPatch):
    folder = repo("org/tiny")
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text('model = "tiny"')
    found = examined(read_config=doctor.read_config)["model"]
    assert (found.status, found.message) == ("ok", f"org/tiny, by {places.config_file()}: {folder}")
    monkeypatch.setenv("MLXONE_MODEL", "starter")
    found = examined()
    assert found["model"].message == "a command that names none uses the starter"
    assert found["starter"].status == "warn"


def test_a_model_in_a_broken_config_file_is_told_by_that(examined):
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text("model = 3")
    found = examined(read_config=doctor.read_config)
    assert found["config"].status == "fail" and "model must be a text" in found["config"].message
    assert not {"model", "starter"} & set(found) and found["registry"].status == "ok"


def test_a_damaged_registry(examined):
    places.home().mkdir()
    (places.home() / "registry.sqlite").write_bytes(b"no database" * 1000)
    model(places.starter_folder())
    found = examined()
    assert found["registry"].status == "warn" and "made anew" in found["registry"].message
    assert examined()["registry"].message.startswith("1 model in ")


def test_a_config_that_is_refused(examined):
    def refuse() -> None:
        raise UsageError("config.toml: line 3", hint="correct the file")

    found = examined(read_config=refuse)["config"]
    assert (found.status, found.message, found.fix) == ("fail", "config.toml: line 3", "correct the file")


@pytest.mark.parametrize("text", ["= broken", "model_dirs = 3", "nonsense = 3"])
@pytest.mark.parametrize("model", ["", "zzz"])
def test_a_config_that_is_broken_is_one_finding(
    examined, text: str, model: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLXONE_MODEL", model)
    monkeypatch.setattr(starter, "at_hand", places.starter_folder)
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text(text)
    bad = [f for f in examined(read_config=doctor.read_config).values() if f.status != "ok"]
    assert [f.name for f in bad] == ["config"]
    assert "bug of ours" not in bad[0].fix


def test_what_a_user_can_cause_is_no_bug_of_ours(examined, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> Finding:
        raise StorageError("/x: gone")

    monkeypatch.setattr(program, "packages", refuse)
    assert examined()["packages"].fix == examine.CORRECT


def test_no_network_is_a_warning(examined, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    assert examined()["network"].message.startswith(f"{fake_hub.url} answers after 0.")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = examined()["network"]
    assert found.status == "warn" and "http://127.0.0.1:9 cannot be reached" in found.message


def test_a_damaged_runtime(examined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = unpack(tmp_path)
    monkeypatch.setattr(about, "runtime_folder", lambda: folder)
    assert examined()["files"].status == "ok"
    flip(folder / "mlxone")
    assert examined()["files"].status == "fail"
    assert not (folder / program.STAMP).exists()


def test_a_check_that_breaks_hides_no_other(examined, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> Finding:
        raise RuntimeError("oh no")

    monkeypatch.setattr(program, "packages", broken)
    found = examined()
    assert list(found) == EVERYWHERE
    assert found["packages"].status == "fail" and "RuntimeError: oh no" in found["packages"].message


def test_no_folder_for_temporary_files(examined, monkeypatch: pytest.MonkeyPatch):
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert "TMPDIR" in examined()["temporary"].fix


def test_a_finding_as_json():
    assert ok("a", "b").to_json() == {"name": "a", "status": "ok", "message": "b", "details": {}}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts a container's limit")
def test_memory_is_this_machines(examined):
    details = examined()["memory"].details
    assert 0 < details["free_bytes"] <= details["limit_bytes"] <= details["total_bytes"]
