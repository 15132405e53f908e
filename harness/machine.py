"""The machine and the software of a measurement, and its limits."""

import os
import platform
import re
import resource
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = "quart", "hypercorn", "uvloop", "sqlalchemy", "aiomysql"


def machine() -> str:
    """Returns the machine's processor, cores and memory."""
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    model = found[1] if found else platform.processor() or platform.machine()
    gib = psutil.virtual_memory().total / 2**30
    return f"{' '.join(model.split())}, {len(os.sched_getaffinity(0))} cores, {gib:.0f} GiB"


def software() -> str:
    """Returns the versions of the measured software."""
    commands = ["mariadbd", "--version"], ["nginx", "-v"], ["wrk", "-v"]
    servers = [f"{command[0]} {version_of(*command)}" for command in commands]
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    return ", ".join([f"Linux {platform.release()}", f"Python {platform.python_version()}", *packages, *servers])


def interrupt_at_any_signal() -> None:
    """Has SIGTERM end this as Ctrl-C does, and SIGINT where a shell has it ignored: everything started is stopped."""
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.default_int_handler)


def raise_descriptors(needed: int) -> str | None:
    """Lets this process and its children open so many files; returns what to do where they may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return None
    if hard < needed:
        return (
            f"{needed} file descriptors are needed, and {hard} are allowed: `ulimit -Hn {needed}` as root (or "
            "LimitNOFILE=, /etc/security/limits.conf) raises it, or give fewer --connections."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return None


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def version_of(*command: str) -> str:
    """Returns the version in the first line that the command prints."""
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    line = (ended.stdout + ended.stderr).splitlines()[0]
    numbers = re.search(r"\d+\.\d+[.\d]*", line)
    return numbers[0] if numbers else line
