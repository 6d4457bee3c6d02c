"""What `uninstall` takes away, and all that it leaves, each with the way to be rid of that, too."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlxone.core import about
from mlxone.hub import own_state, places, runtimes
from mlxone.hub.own_state import State
from mlxone.hub.runtimes import Plan, Staying
from mlxone.hub.trash import Swept, Tally

RUNTIME, PROGRAM, PACKAGE, COMPLETION, SERVICE, MODELS, STATE, CONFIG, OTHERS = (
    "unpacked",
    "program",
    "package",
    "completion",
    "service",
    "models",
    "state",
    "config",
    "others",
)
SYSTEM_UNITS = Path("/etc/systemd/system")
NAME = "mlxone"
UNIT = f"{NAME}.service"
NAMED = 5  # strangers by name; the rest is counted
CELLAR = "Cellar"  # Homebrew's folder, in which files are not deleted one by one


@dataclass(frozen=True, slots=True)
class Rest:
    kind: str  # one of the above
    path: Path
    way: str  # how it can be removed, or why it stays
    size_bytes: int = 0
    in_use: bool = False
    failed: bool = False  # it could not be looked at

    @property
    def is_problem(self) -> bool:
        """It stays although it was to go, or may be such."""
        return self.in_use or self.failed


@dataclass(frozen=True, slots=True)
class Leaving:
    runtimes: Plan
    state: State  # empty unless that was to go as well
    rest: list[Rest] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.runtimes.runtimes and self.state.is_empty

    @property
    def is_clean(self) -> bool:
        """Nothing to delete is here: known, and not only unseen or in use."""
        return self.is_empty and not any(rest.is_problem for rest in self.rest)

    @property
    def size_bytes(self) -> int:
        return self.runtimes.size_bytes + self.state.size_bytes


def look(*, with_state: bool) -> Leaving:
    plan = runtimes.plan()
    state = own_state.look(others_run=any(one.in_use for one in plan.staying))
    rest = [_staying(RUNTIME, one) for one in plan.staying]
    rest += _programs(plan)
    rest += _package()
    rest += _completion()
    rest += _services()
    rest += _models()
    if with_state:
        rest += [_staying(STATE, one) for one in state.staying]
        rest += _strangers(state.strangers)
    else:
        rest += _kept(state)
    rest += _config()
    return Leaving(plan, state if with_state else State(), rest)


def leave(what: Leaving) -> Swept:
    """The program's own runtime goes last: after that nothing more can be imported."""
    done = own_state.remove(what.state)
    done.add(runtimes.remove(what.runtimes))
    done.problems += [f"{rest.path}: {rest.way}" for rest in what.rest if rest.is_problem]
    return done


def _staying(kind: str, one: Staying) -> Rest:
    return Rest(kind, one.path, one.why, in_use=one.in_use, failed=one.failed)


def _kept(state: State) -> Iterator[Rest]:
    """Of the state that was not to go; then it is no problem what cannot be seen of it."""
    yield from (Rest(STATE, one.path, one.why) for one in state.staying if one.failed)
    if not state.is_empty or any(one.in_use for one in state.staying):
        yield Rest(STATE, places.home(), "`mlxone uninstall --all` deletes it", state.size_bytes)


def _strangers(found: list[Path]) -> Iterator[Rest]:
    if found:
        home = places.home()
        names = ", ".join(str(path.relative_to(home)) for path in found[:NAMED])
        more = ", …" if len(found) > NAMED else ""
        plural = "s" if len(found) != 1 else ""
        yield Rest(OTHERS, home, f"{len(found)} thing{plural} that mlxone did not make: {names}{more}")


def _programs(plan: Plan) -> Iterator[Rest]:
    """The files that would unpack again: the user's own, so they get the line that deletes them."""
    started = [Path(about.executable())] if about.is_packed() else []
    for path in dict.fromkeys([*started, *runtimes.origins(plan.runtimes)]):
        yield Rest(PROGRAM, path, f"`{_deletion(path)}` deletes it; started again, it unpacks again")


def _deletion(path: Path) -> str:
    if CELLAR in Path(os.path.realpath(path)).parts:
        return "brew uninstall mlxone"
    may = os.access(path.parent, os.W_OK)
    return f"{'' if may else 'sudo '}rm {shlex.quote(str(path))}"


def _package() -> Iterator[Rest]:
    kind, package = about.kind(), about.PACKAGE
    if kind == "source":
        yield Rest(PACKAGE, package.parent, "this copy runs from its source: delete the folder")
    elif kind == "wheel":
        python = shlex.quote(sys.executable)
        yield Rest(PACKAGE, package, f"`{python} -m pip uninstall mlxone` removes this copy")


def _completion() -> Iterator[Rest]:
    """What `mlxone completion --help` tells to install; a shell would complain of it at each start."""
    home = places.user_folder()
    for shell in ("bash", "zsh"):
        settings, call = home / f".{shell}rc", f"mlxone completion {shell}"
        if any(call in line.partition("#")[0] for line in _lines(settings)):
            yield Rest(COMPLETION, settings, f"delete the line with `{call}` from it")
    script = home / ".config" / "fish" / "completions" / f"{NAME}.fish"
    if os.path.lexists(script):
        yield Rest(COMPLETION, script, f"`rm {shlex.quote(str(script))}` deletes it")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return []


def _services() -> Iterator[Rest]:
    """A unit that stays would start a program that is gone."""
    units = places.user_folder() / ".config" / "systemd" / "user"
    for unit, control, delete in (
        (SYSTEM_UNITS / UNIT, "sudo systemctl", "sudo rm"),
        (units / UNIT, "systemctl --user", "rm"),
    ):
        if os.path.lexists(unit):
            steps = [
                f"{control} disable --now {unit.stem}",
                f"{delete} {shlex.quote(str(unit))}",
                f"{control} daemon-reload",
            ]
            yield Rest(SERVICE, unit, f"`{' && '.join(steps)}` ends and deletes it")


def _models() -> Iterator[Rest]:
    cache, tally = places.hf_cache(), Tally()
    size = sum(tally.folder(repo) for repo in sorted(cache.glob("models--*")))
    if size:
        way = "other programs may use them, too; `mlxone rm MODEL` deletes one"
        yield Rest(MODELS, cache, way, size)


def _config() -> Iterator[Rest]:
    path = places.config_file()
    if os.path.lexists(path):
        yield Rest(CONFIG, path, f"`rm {shlex.quote(str(path))}` deletes it")
