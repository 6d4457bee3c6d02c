"""Small questions to the operating system. Every answer may be missing, and then is None.

Commands go through `Host.run`, so that tests answer with canned texts. What starts with a Mac's own
commands (`sysctl`, `vm_stat`, `ioreg`) was written from their documented output and has never run on a Mac.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxone.backend import cpu
from mlxone.core.about import own_command

QUICK_SECONDS, DEVICE_SECONDS = 5.0, 30.0
CPUINFO = Path("/proc/cpuinfo")
# Where an NVIDIA driver shows itself: on a machine, in a container, under Windows' Linux.
DRIVER_SIGNS = (
    Path("/proc/driver/nvidia"),
    Path("/dev/nvidiactl"),
    Path("/usr/lib/wsl/lib/libcuda.so.1"),
)

Runner = Callable[[Sequence[str], float], str | None]


def run(command: Sequence[str], seconds: float) -> str | None:
    """What a command prints; None if it is not there, fails or takes longer."""
    try:
        done = finish(command, seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def finish(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """The same for whoever wants to know what went wrong; raises what `subprocess.run` does."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        text=True,
        errors="replace",
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Host:
    platform: str = sys.platform
    run: Runner = run

    def number(self, command: Sequence[str], pattern: str = r"\s*(\d+)") -> int | None:
        """The first number of a command's answer that the pattern leads to."""
        found = re.search(pattern, self.run(command, QUICK_SECONDS) or "")
        return int(found[1]) if found else None


# MLX's own view ------------------------------------------------------------------------------


def device_command() -> list[str]:
    return [*own_command(), "device"]


def device_facts(host: Host) -> dict[str, Any] | None:
    """What `backend.probe.facts` says, asked of a process that loads MLX in our stead."""
    return facts_in(host.run(device_command(), DEVICE_SECONDS) or "")


def facts_in(said: str) -> dict[str, Any] | None:
    """In what that process printed; None if it is anything else."""
    lines = said.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("kind") in ("apple", "cuda", "cpu") else None


# macOS ---------------------------------------------------------------------------------------


def sysctl(host: Host, name: str) -> str | None:
    return (host.run(["sysctl", "-n", name], QUICK_SECONDS) or "").strip() or None


def sysctl_number(host: Host, name: str) -> int | None:
    return host.number(["sysctl", "-n", name])


def gpu_cores(host: Host) -> int | None:
    return host.number(["ioreg", "-r", "-d", "1", "-c", "AGXAccelerator"], r'"gpu-core-count"\s*=\s*(\d+)')


def mac_available(host: Host) -> int | None:
    """Bytes that are free or would be given back: free, speculative and inactive pages.

    Inactive ones hold file contents, or what the system compresses as soon as the space is wanted.
    """
    text = host.run(["vm_stat"], QUICK_SECONDS) or ""
    size = re.search(r"page size of (\d+) bytes", text)
    pages = {name: int(count) for name, count in re.findall(r"^Pages (\w+):\s+(\d+)\.?\s*$", text, re.M)}
    if size is None or "free" not in pages:
        return None
    return int(size[1]) * sum(pages.get(name, 0) for name in ("free", "speculative", "inactive"))


# Linux ---------------------------------------------------------------------------------------


def has_nvidia_driver() -> bool:
    return any(sign.exists() for sign in DRIVER_SIGNS) or shutil.which("nvidia-smi") is not None


def card_free(host: Host, card_id: str | None) -> int | None:
    """Bytes free on a card. Some machines that share their memory with the card do not say."""
    which = ["-i", card_id] if card_id else []
    command = ["nvidia-smi", *which, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    mebibytes = host.number(command, r"\A\s*(\d+)\s*(?:\n|\Z)")
    return None if mebibytes is None else mebibytes << 20


def total_memory() -> int:
    """The machine's memory, or its container's limit if that is less."""
    limits = [int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for limit, *_ in cpu.MEMORY_GROUPS:
        try:
            limits.append(int((cpu.GROUPS / limit).read_text()))
        except (OSError, ValueError):  # no such control group, or the word "max"
            continue
    return min(limits)


def processor_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(errors="replace"), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
