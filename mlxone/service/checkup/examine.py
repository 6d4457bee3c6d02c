"""`mlxone doctor`'s work: every check in turn, each by itself, so that a broken one hides no other.

What a check says is decided in pure functions beside this file; here they get their facts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from mlxone.core import about
from mlxone.core.errors import MlxoneError
from mlxone.service.checkup import device, folders, program, state
from mlxone.service.checkup.device import Told
from mlxone.service.checkup.findings import Finding, fail, of_error, ok

Check = Callable[[], Finding | None]  # None: there is nothing to say of it here
REPORT = "a bug of ours: please report this line"
CORRECT = "correct what this line names"


def examine(
    *, offline: bool, read_config: Callable[[], object], begins: Callable[[str], object] = lambda name: None
) -> Iterator[Finding]:
    """`read_config` raises where the settings cannot be honoured; `begins` hears what is looked at next."""
    environ = dict(os.environ)  # before the Hub's client is told what it must not do
    told_of: set[str] = set()
    for name, check in _own_checks():
        begins(name)
        yield from _asked(name, check, told_of)
    begins("mlx")
    told = device.ask()
    # The program's files after MLX was asked: what is found damaged there is unpacked anew at the next start
    # of this program, and asking is one.
    for name, check in (*_device_checks(told), ("files", _files), *_place_checks(read_config)):
        begins(name)
        yield from _asked(name, check, told_of)
    if not offline:
        begins("network")
        yield from _asked("network", network, told_of)
    yield program.environment(environ)


def _asked(name: str, check: Check, told_of: set[str]) -> Iterator[Finding]:
    """`told_of`: the troubles that were found. What many checks stumble over is said by the first."""
    try:
        found = check()
    except MlxoneError as error:
        found = of_error(name, error, CORRECT)
    except Exception as error:  # noqa: BLE001 - a doctor is for machines where anything is broken
        found = fail(name, f"this could not be looked at: {type(error).__name__}: {error}", REPORT)
    if found is None or (found.status != "ok" and found.message in told_of):
        return
    if found.status != "ok":
        told_of.add(found.message)
    yield found


def _own_checks() -> list[tuple[str, Check]]:
    return [
        ("program", lambda: program.program(about.about())),
        ("packages", _packages),
    ]


def _packages() -> Finding:
    versions = {name: about.package_version(name) for name in program.PACKAGES}
    return program.packages(versions, is_packed=about.is_packed())


def _files() -> Finding | None:
    folder = about.runtime_folder()
    return program.runtime(folder) if folder else None


def _device_checks(told: Told) -> list[tuple[str, Check]]:
    from mlxone.backend import cpu
    from mlxone.fitting import host

    packed = about.is_packed()
    return [
        ("mlx", lambda: device.mlx(told, is_packed=packed)),
        ("blas", lambda: device.blas(told, cpu.mode(), is_packed=packed)),
        ("gpu", lambda: device.card(told, has_driver=host.has_nvidia_driver(), is_packed=packed)),
        ("memory", _memory),
    ]


def _memory() -> Finding:
    from mlxone.backend import cpu
    from mlxone.fitting import host

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = host.total_memory()
    free = host.mac_available(host.Host()) if sys.platform == "darwin" else cpu.available_memory()
    return device.memory(total, limit, limit if free is None else free)


def _place_checks(read_config: Callable[[], object]) -> list[tuple[str, Check]]:
    from mlxone.hub import places, sources

    own_fix = "make it readable and writable, or set MLXONE_HOME to a folder that is"
    hub_fix = "make it writable, or set HF_HUB_CACHE to a folder that is: until then nothing can be fetched"
    return [
        ("home", lambda: state.home(places.home(), own_fix)),
        ("config", lambda: _config(places.config_file(), read_config)),
        ("registry", _registry),
        ("hub cache", lambda: folders.folder("hub cache", places.hf_cache(), hub_fix, without="warn")),
        ("model folders", lambda: folders.model_folders(list(sources.model_dirs()))),
        ("temporary", _temporary),
        ("disk", lambda: folders.disk(dict.fromkeys((places.home(), places.hf_cache())))),
        ("starter", _starter),
        ("model", _model),
    ]


def _config(path: Path, read_config: Callable[[], object]) -> Finding:
    try:
        read_config()
    except MlxoneError as error:
        return of_error("config", error, f"correct {path}")
    return ok("config", f"{path}{'' if path.exists() else ' (there is none)'}", {"path": str(path)})


def _registry() -> Finding | None:
    from mlxone.hub import places
    from mlxone.hub.registry import Registry

    if folders.unusable(places.home()):
        return None  # said of the home
    with Registry() as known:
        return folders.registry(places.home() / "registry.sqlite", len(known.refresh()), known.notices)


def _temporary() -> Finding:
    fix = "set TMPDIR to a folder that can be written to"
    try:
        place = Path(tempfile.gettempdir())
    except OSError as error:
        return fail("temporary", str(error.strerror or error), fix)
    return folders.folder("temporary", place, fix, without="warn")


def _starter() -> Finding:
    from mlxone.hub import find, places, snapshots, starter

    whole, cached = starter.at_hand(), snapshots.snapshot_of(starter.REPO)
    bundled, prepared = places.bundled_starter(), places.starter_folder()
    is_default = find.default_model() == starter.STARTER
    return folders.starter(bundled, prepared, whole or cached, starter.way_to_get_it(), is_default=is_default)


def _model() -> Finding:
    """What a command without a model would use, found as it would; nothing is fetched for it."""
    from mlxone.hub import find, places, sources, starter

    name = find.default_model()
    if name == starter.STARTER:
        return ok("model", "a command that names none uses the starter", {"name": name})
    sources.sources()  # a config file that is broken is no fault of the model
    named_by = "MLXONE_MODEL" if os.environ.get("MLXONE_MODEL", "").strip() else str(places.config_file())
    try:
        found = find.find(name)
    except MlxoneError as error:
        fix = f"correct {named_by}{f': {error.hint}' if error.hint else ''}"
        return fail("model", f"{named_by} names {name!r}: {error.message}", fix, {"name": name})
    details = {"name": found.name, "path": str(found.path)}
    return ok("model", f"{found.name}, by {named_by}: {found.path}", details)


def network() -> Finding:
    """A machine without one is a way to use this program, so it never fails."""
    from mlxone.hub import client

    if client.is_offline():
        return ok("network", "HF_HUB_OFFLINE is set: nothing is fetched", {"offline": True})
    from mlxone.hub.reach import reach

    try:
        found = reach()
    except MlxoneError as error:
        fix = "check the network; what is on this machine works without"
        return of_error("network", error, fix, status="warn")
    return ok("network", f"{found.endpoint} answers after {found.seconds:.2f} s", asdict(found))
