"""What was learned survives processes, kills and damage; no trouble with the file is ever an error."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.fitting import store as store_module
from mlxone.fitting.store import KEPT, KINDS, Measurement, Store

ROOT = Path(__file__).parents[2]
MACHINE = "apple Apple M3 Max 40 1"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "learned.sqlite"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    with closing(Store(path, clock=clock)) as made:
        yield made


def reopened(path: Path) -> Store:
    """As another process would see it; never waits."""
    return Store(path, busy_seconds=0)


def on_disk(path: Path, key: str) -> Any:
    with closing(reopened(path)) as store:
        return store.get(key)


def one(number: float, kind: Any = "transient", machine: str = MACHINE) -> Measurement:
    return Measurement(kind, machine, "org/model", number, 2 * number)


# Values -------------------------------------------------------------------------------------


def test_what_was_put_is_there_in_the_next_process(store: Store, path: Path):
    facts = {"kind": "apple", "sizes": [1, 2.5, None, True], "name": "Größe “x”"}
    store.put("device", facts)
    assert store.get("device") == facts
    with closing(reopened(path)) as other:
        assert other.get("device") == facts
        assert other.get("another") is None


def test_the_last_value_counts(store: Store):
    store.put("k", 1)
    store.put("k", [2])
    assert store.get("k") == [2]


def test_a_store_that_is_not_used_touches_nothing(path: Path):
    Store(path).close()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("passed", "max_age", "there"),
    [(0, 10, True), (10, 10, True), (10.5, 10, False), (10.5, None, True), (-1, 10, False), (-1, None, True)],
)
def test_values_age(store: Store, clock: Clock, passed: float, max_age: float | None, there: bool):
    store.put("k", "v")
    clock.now += passed
    assert (store.get("k", max_age=max_age) == "v") is there


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
def test_it_is_a_dictionary_of_json(values: dict[str, Any]):
    with closing(Store(Path(os.environ["HOME"]) / "g.sqlite")) as store:
        for key, value in values.items():
            store.put(key, value)
        assert {key: store.get(key) for key in values} == json.loads(json.dumps(values))


# Measurements -------------------------------------------------------------------------------


def test_measurements_come_back_by_machine_and_kind_in_order(store: Store, path: Path):
    for number in (3.0, 1.0, 2.0):
        store.add_measurement(one(number))
    store.add_measurement(one(9, "decode_tps"))
    store.add_measurement(one(8, machine="another"))
    with closing(reopened(path)) as other:
        assert other.measurements(MACHINE, "transient") == [one(3), one(1), one(2)]
        assert other.measurements(MACHINE, "decode_tps") == [one(9, "decode_tps")]
        assert other.measurements(MACHINE, "prefill_tps") == []


def test_the_last_of_each_kind_are_kept(store: Store):
    for kind in KINDS:
        for number in range(205):
            store.add_measurement(one(number, kind))
    for kind in KINDS:
        assert [m.predicted for m in store.measurements(MACHINE, kind)] == list(range(5, 205))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_teaches_nothing(store: Store, number: float):
    store.add_measurement(replace(one(1), predicted=number))
    store.add_measurement(replace(one(1), measured=number))
    store.add_measurement(one(1))
    assert store.measurements(MACHINE, "transient") == [one(1)]


def test_an_unknown_kind_is_a_slip_of_ours(store: Store):
    with pytest.raises(ValueError, match="no such kind of measurement: speed"):
        store.add_measurement(one(1, "speed"))


# Damage -------------------------------------------------------------------------------------


def another_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE learned (other TEXT); PRAGMA user_version = 1;")


def a_later_version(path: Path) -> None:
    with closing(Store(path)) as store:
        store.put("k", "old")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def torn(path: Path, start: int, end: int) -> None:
    """Well filled, then overwritten from one page to another (counted from the end when negative)."""
    with closing(Store(path)) as store:
        for number in range(KEPT):
            store.add_measurement(one(number))
    pages = path.stat().st_size // 4096
    first, last = start % pages, end % (pages + 1)
    with path.open("r+b") as file:
        file.seek(first * 4096)
        file.write(random.Random(5).randbytes((last - first) * 4096))


DAMAGES = {
    "another file": lambda path: path.write_text("not a database, but long enough to be read as one" * 100),
    "a header alone": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(84)),
    "torn from the first page": lambda path: torn(path, 0, 2),
    "torn in the middle": lambda path: torn(path, 1, 4),
    "torn at the end": lambda path: torn(path, -1, -1),
    "another schema": another_schema,
    "a later version": a_later_version,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_moved_aside(
    path: Path, damage: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    path.parent.mkdir()
    damage(path)
    content = path.read_bytes()
    with caplog.at_level(logging.INFO), closing(Store(path)) as store:
        assert store.get("k") is None
        store.put("k", "new")
        assert store.get("k") == "new"
    assert on_disk(path, "k") == "new"
    assert path.with_name(path.name + ".damaged").read_bytes() == content
    assert f"{path} is damaged" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.INFO}, "a warning would be printed"
    assert capfd.readouterr() == ("", "")


def test_nothing_of_a_damaged_file_is_left_for_the_new_one(path: Path):
    path.parent.mkdir()
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).write_text(f"old{ending}")
    store_module._move_aside(path)
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [(f"{path.name}.damaged", "old")]


def test_an_empty_file_is_a_new_one(path: Path):
    path.parent.mkdir()
    path.touch()
    with closing(Store(path)) as store:
        store.put("k", 1)
    assert not path.with_name(path.name + ".damaged").exists()
    assert on_disk(path, "k") == 1


def test_damage_that_shows_while_it_is_open(store: Store, path: Path):
    store.put("k", "old")
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE learned")
    assert store.get("k") is None
    store.put("k", "new")
    assert on_disk(path, "k") == "new"


@given(st.binary(max_size=3000), st.booleans())
def test_any_bytes_give_a_working_store(content: bytes, as_sqlite: bool):
    path = Path(os.environ["HOME"]) / "any.sqlite"
    path.write_bytes(b"SQLite format 3\0" * as_sqlite + content)
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    with closing(Store(path)) as store:
        store.get("k")
        store.put("k", 1)
        assert store.get("k") == 1
        store.add_measurement(one(1))
        assert store.measurements(MACHINE, "transient") == [one(1)]


# Places that do not work --------------------------------------------------------------------


def a_file_in_the_way(path: Path) -> None:
    path.parent.touch()


def a_folder_in_the_way(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.mark.parametrize("trouble", [a_file_in_the_way, a_folder_in_the_way])
def test_a_place_that_cannot_be_used_leaves_the_memory(
    path: Path, trouble: Any, caplog: pytest.LogCaptureFixture
):
    trouble(path)
    with caplog.at_level(logging.INFO), closing(Store(path)) as store:
        store.put("k", 1)
        store.add_measurement(one(1))
        assert store.get("k") == 1
        assert store.measurements(MACHINE, "transient") == [one(1)]
    assert "forgotten at the end" in caplog.text


@pytest.mark.parametrize(
    "error", [PermissionError("read-only"), OSError(28, "no space left")], ids=["read-only", "full"]
)
def test_a_place_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError):
    """By a stand-in: whoever runs the tests may be allowed to write anywhere."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", refuse)
    with closing(Store(path)) as store:
        store.put("k", 1)
        assert store.get("k") == 1
    assert not path.parent.exists()


def test_a_file_that_fills_up_while_it_is_used(store: Store, path: Path):
    store.put("k", 1)
    store._db.execute("PRAGMA max_page_count = 1")
    store.put("long", "x" * 10**6)
    assert store.get("long") == "x" * 10**6
    assert on_disk(path, "long") is None
    assert on_disk(path, "k") == 1, "a full file is not a damaged one"
    assert not path.with_name(path.name + ".damaged").exists()


# Several at once ----------------------------------------------------------------------------


def test_a_file_somebody_holds_is_left_alone(path: Path):
    with closing(Store(path)) as first:
        first.put("k", "theirs")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with closing(reopened(path)) as store:
            assert store.get("k") == "theirs", "reading waits for nobody"
            store.put("k", "mine")
            assert store.get("k") == "mine"
        holder.execute("COMMIT")
    assert on_disk(path, "k") == "theirs"
    assert not path.with_name(path.name + ".damaged").exists()


def test_threads_share_a_store(store: Store, monkeypatch: pytest.MonkeyPatch):
    openings: list[Path] = []
    opened = store_module._opened

    def counted(path: Path, busy_seconds: float) -> sqlite3.Connection:
        openings.append(path)
        return opened(path, busy_seconds)

    monkeypatch.setattr(store_module, "_opened", counted)

    def work(thread: int) -> None:
        for number in range(20):
            store.add_measurement(one(thread * 100 + number))
            store.put(f"{thread}", number)

    threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [m.predicted for m in store.measurements(MACHINE, "transient")]
    assert sorted(found) == sorted(t * 100 + n for t in range(4) for n in range(20))
    assert [store.get(str(t)) for t in range(4)] == [19] * 4
    assert len(openings) == 1, "nobody disturbed anybody's transaction"


WRITER = """
import sys
from pathlib import Path
from mlxone.fitting.store import Measurement, Store
store = Store(Path(sys.argv[1]), busy_seconds=60)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    store.add_measurement(Measurement("decode_tps", sys.argv[2], "m", number, 1))
    store.put(f"{sys.argv[2]} {number % 7}", number)
    print(number, flush=True)
"""


def writer(path: Path, name: str, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(rounds)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def start(writers: list[subprocess.Popen[str]]) -> None:
    """All at once, when all are ready."""
    for process in writers:
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_share_a_file(path: Path, damaged: bool):
    """Also when all of them find it damaged: nobody moves aside what another has just made."""
    path.parent.mkdir()
    if damaged:
        path.write_bytes(b"x" * 5000)
    writers = [writer(path, str(n), 30) for n in range(4)]
    start(writers)
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    with closing(reopened(path)) as store:
        for n in range(4):
            assert [m.predicted for m in store.measurements(str(n), "decode_tps")] == list(range(30))
            assert store.get(f"{n} 6") == 27


def test_a_process_killed_while_it_writes_leaves_a_sound_file(path: Path):
    for round_number in range(5):
        process = writer(path, "killed", 10_000)
        start([process])
        last = -1
        for _ in range(3 + 4 * round_number):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with closing(reopened(path)) as store:
            assert store.get(f"killed {last % 7}") >= last
            store.put("after", round_number)
            assert store.get("after") == round_number
    assert not path.with_name(path.name + ".damaged").exists()


def test_a_stuck_opener_is_not_waited_for(path: Path):
    path.parent.mkdir()
    with store_module._sole_opener(path, 0), closing(reopened(path)) as store:
        store.put("k", 1)
        assert store.get("k") == 1
    assert not path.exists()
