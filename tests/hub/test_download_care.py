"""What others do to a download that is under way, and what has become of one that was done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxone.cli.main import main
from mlxone.core.errors import HubError, StorageError
from mlxone.hub import gc, places
from mlxone.hub.download import State, fetch, plan
from mlxone.hub.in_use import using
from mlxone.hub.layout import Cache, Folder
from tests.hub.fake_hub import FakeHub, Fault, Repo
from tests.hub.seen import FILES, NAME, NEEDED, WEIGHTS, Seen, contents, leftovers

SHARD = "model-00001-of-00002.safetensors"
WHOLE = {name: FILES[name] for name in NEEDED}


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo(dict(FILES))
    return fake_hub.repos[NAME]


class AfterShard(Seen):
    """Does something each time that the first shard is done, which is before config.json is asked for."""

    def __init__(self, act: Callable[[], object], times: int = 1) -> None:
        super().__init__(self._look)
        self._act, self._times = act, times

    def _look(self, held: int) -> None:
        if self._times and self.states.get(SHARD, [])[-1:] == [State.DONE]:
            self._times -= 1
            self.states[SHARD].append(State.WAITING)
            self._act()


def take_away(folder: Path, name: str) -> None:
    blob = (folder / name).resolve()
    (folder / name).unlink()
    blob.unlink()


# Under way.


@pytest.mark.parametrize("to", [False, True])
def test_a_download_says_that_it_uses_its_folder(repo: Repo, tmp_path: Path, to: bool):
    wanted = plan(NAME)
    place = tmp_path / "there" if to else wanted.folder
    said: list[str] = []
    fetch(wanted, AfterShard(lambda: said.extend(map(str, using(place)))), to=place if to else None)
    assert said == [f"`mlxone get` (process {os.getpid()})"]
    assert using(place) == []


def test_nor_does_it_after_a_failure(repo: Repo):
    repo.always["config.json"] = Fault(status=403)
    with pytest.raises(HubError):
        fetch(plan(NAME))
    assert using(plan(NAME).folder) == []


def test_rm_leaves_a_running_download_alone(repo: Repo, capsys: pytest.CaptureFixture[str]):
    codes: list[int] = []
    folder = fetch(plan(NAME), AfterShard(lambda: codes.append(main(["rm", NAME, "--yes"]))))
    assert codes == [9]
    assert "mlxone get" in capsys.readouterr().err
    assert contents(folder) == WHOLE


@pytest.mark.parametrize("force", [False, True])
def test_gc_leaves_a_running_download_alone(repo: Repo, fake_hub: FakeHub, force: bool):
    old = fetch(plan(NAME))
    repo.commit = "d" * 40
    repo.files[SHARD] = WEIGHTS[1:]
    fake_hub.forget()

    def tidy() -> None:
        (old / "notes").write_text("the older snapshot is the newer folder")
        gc.execute(gc.plan(places.hf_cache(), force=force, now=time.time() + 7200))

    folder = fetch(plan(NAME), AfterShard(tidy))
    (old / "notes").unlink(missing_ok=True)
    assert contents(folder) == WHOLE | {SHARD: WEIGHTS[1:]}
    assert fake_hub.gets() == [SHARD]


def test_what_was_taken_away_meanwhile_is_fetched_again(repo: Repo, fake_hub: FakeHub):
    wanted = plan(NAME)
    seen = AfterShard(lambda: take_away(wanted.folder, SHARD))
    assert contents(fetch(wanted, seen)) == WHOLE
    assert fake_hub.gets().count(SHARD) == 2
    assert seen.fetched == wanted.total_bytes + len(WEIGHTS)
    assert leftovers() == set()


def test_what_is_taken_away_again_and_again_is_no_success(repo: Repo):
    wanted = plan(NAME)
    with pytest.raises(StorageError, match=f"{SHARD} was deleted during the download"):
        fetch(wanted, AfterShard(lambda: take_away(wanted.folder, SHARD), times=2))
    assert not (wanted.folder.parents[1] / "refs").exists()
    assert contents(fetch(plan(NAME))) == WHOLE


def test_two_threads_that_finish_at_once(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    wanted = plan(NAME)
    first, second = Cache(wanted), Cache(wanted)
    write, others = Path.write_text, [second]

    def interrupted(path: Path, *args: str, **named: str) -> int:
        written = write(path, *args, **named)
        if others:
            others.pop().finish()
        return written

    monkeypatch.setattr(Path, "write_text", interrupted)
    first.finish()
    refs = wanted.folder.parents[1] / "refs"
    assert {path.name: path.read_text() for path in refs.iterdir()} == {"main": wanted.commit}


# Done, and then damaged.


def spoil(folder: Path, name: str) -> None:
    path = (folder / name).resolve()
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("links", [True, False])
def test_damage_that_keeps_the_size_is_found_and_mended(
    repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, links: bool
):
    monkeypatch.setenv("HF_HUB_DISABLE_SYMLINKS", "" if links else "1")
    folder = fetch(plan(NAME))
    for name in (SHARD, "config.json"):
        spoil(folder, name)
    (folder / "merges.txt").unlink()
    fake_hub.forget()
    seen = Seen()
    assert contents(fetch(plan(NAME), seen, verify=True)) == WHOLE
    missing = set() if links else {"merges.txt"}  # with links its blob is there still
    assert set(fake_hub.gets()) == {SHARD, "config.json"} | missing
    assert seen.fetched == sum(len(FILES[name]) for name in fake_hub.gets())
    assert (seen.history[-1], leftovers()) == (seen.total, set())


def test_a_blob_without_a_name_is_not_taken_on_trust_either(repo: Repo, fake_hub: FakeHub):
    folder = fetch(plan(NAME))
    spoil(folder, SHARD)
    (folder / SHARD).unlink()
    fake_hub.forget()
    assert contents(fetch(plan(NAME), verify=True)) == WHOLE
    assert fake_hub.gets() == [SHARD]


def test_nothing_is_fetched_where_all_is_well(repo: Repo, fake_hub: FakeHub):
    folder = fetch(plan(NAME))
    fake_hub.forget()
    seen = Seen()
    assert fetch(plan(NAME), seen, verify=True) == folder
    assert (fake_hub.gets(), seen.fetched, set(seen.history)) == ([], 0, {seen.total})
    assert {states[-1] for states in seen.states.values()} == {State.DONE}


def test_a_file_that_cannot_be_mended_stays_what_it_was(repo: Repo):
    folder = fetch(plan(NAME))
    spoil(folder, SHARD)
    repo.always[SHARD] = Fault(status=403)
    with pytest.raises(HubError):
        fetch(plan(NAME), verify=True)
    assert len(contents(folder)[SHARD]) == len(WEIGHTS)
    repo.always.clear()
    assert contents(fetch(plan(NAME), verify=True)) == WHOLE


# A folder of one's own whose repo moved on.


def cut_off(repo: Repo, to: Path) -> None:
    repo.always[SHARD] = Fault(cut=0)
    repo.faults[SHARD] = [Fault(cut=900)]
    with pytest.raises(HubError):
        fetch(plan(NAME), to=to)
    repo.always.clear()
    repo.faults.clear()


def test_a_part_that_can_no_longer_become_a_file_goes(repo: Repo, tmp_path: Path):
    cut_off(repo, tmp_path)
    assert any((tmp_path / ".mlxone-download").iterdir())
    repo.commit, repo.files[SHARD] = "d" * 40, WEIGHTS[1:]
    fetch(plan(NAME), to=tmp_path)
    assert contents(tmp_path) == WHOLE | {SHARD: WEIGHTS[1:]}
    assert not (tmp_path / ".mlxone-download").exists()


def test_unless_somebody_is_at_it(repo: Repo, tmp_path: Path):
    cut_off(repo, tmp_path)
    old = plan(NAME)
    (file,) = (file for file in old.files if file.name == SHARD)
    repo.commit, repo.files[SHARD] = "d" * 40, WEIGHTS[1:]
    store = Folder(old, tmp_path)
    with store.lock(file):
        fetch(plan(NAME), to=tmp_path)
        assert store.partial(file).exists()


# The Hub's client.


def test_the_client_does_not_look_for_who_started_us():
    code = (
        "from mlxone.hub import client; from huggingface_hub import constants; "
        "print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    environ = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}

    def said(**more: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environ | more, capture_output=True, text=True).stdout

    assert said() == "True\n"
    assert said(HF_HUB_DISABLE_TELEMETRY="0") == "False\n"  # whoever says something is heard
