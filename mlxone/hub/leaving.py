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

RUNTIME, PROGRAM, PACKAGE, MODELS, STATE, CONFIG, OTHERS = (
    "unpacked",
    "program",
    "package",
    "models",
    "state",
    "config",
    "others",
)
CELLAR = "Cellar"  # Homebrew's folder, in which files are not deleted one by one


@dataclass(frozen=True, slots=True)
class Rest:
    kind: str  # one of the above
    path: Path
    way: str  # how it can be removed, or why it stays
    size_bytes: int = 0
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    runtimes: Plan
    state: State  # empty unless that was to go as well
    rest: list[Rest] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.runtimes.runtimes and not self.state.files

    @property
    def size_bytes(self) -> int:
        return self.runtimes.size_bytes + self.state.size_bytes


def look(*, with_state: bool) -> Leaving:
    plan, state = runtimes.plan(), own_state.look()
    rest = [_staying(RUNTIME, one) for one in plan.staying]
    rest += _programs(plan)
    rest += _package()
    rest += _models()
    if with_state:
        rest += [_staying(STATE, one) for one in state.staying]
        if state.strangers:
            count = f"{state.strangers} thing{'s' * (state.strangers != 1)} that mlxone did not make"
            rest.append(Rest(OTHERS, places.home(), count))
    elif state.files:
        rest.append(Rest(STATE, places.home(), "`mlxone uninstall --all` deletes it", state.size_bytes))
    rest += _config()
    return Leaving(plan, state if with_state else State(), rest)


def leave(what: Leaving) -> Swept:
    """The program's own runtime goes last: after that nothing more can be imported."""
    done = own_state.remove(what.state)
    done.add(runtimes.remove(what.runtimes))
    done.problems += [f"{rest.path}: {rest.way}" for rest in what.rest if rest.in_use]
    return done


def _staying(kind: str, one: Staying) -> Rest:
    return Rest(kind, one.path, one.why, in_use=one.in_use)


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
