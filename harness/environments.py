"""Virtual environments beside .venv, in .run/environments, and servers that run in them.

For packages that must not be mixed with the service's: those of another stack, or of a tool.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.processes import Hypercorn, free_port, is_ready, stop, wait_until
from service.platform.settings import ROOT


@dataclass(frozen=True)
class Stack:
    """A server that runs in an environment of its own."""

    name: str
    """Of its environment, which several may share."""
    command: tuple[str, ...]
    """Arguments of its Python after -m; {workers} and {port} are filled in."""
    pool_size: int
    """Connections of each worker with which it counts fastest on one row."""


class NotInstalled(Exception):
    """An environment could not be made; the reason is on standard error."""


def environment(name: str, requirements: Path | None = None) -> Path:
    """Returns the Python of the environment that holds what requirements/NAME.txt names, or another file of that kind.

    It is made if it is missing, half made, or made of other requirements or for another Python. Raises NotInstalled.
    """
    requirements = requirements or ROOT / f"requirements/{name}.txt"
    folder = ROOT / ".run/environments" / name
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    python, noted = folder / "bin/python", folder / "made-of.txt"
    wanted = f"# {sys.version}\n{requirements.read_text()}"
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        if not noted.exists() or noted.read_text() != wanted or not _works(python):
            print(
                f"-- making {folder.relative_to(ROOT)} (again when {requirements.name} changes)",
                file=sys.stderr,
                flush=True,
            )
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _uv("venv", "--python", sys.executable, str(folder))
                _uv("pip", "install", "--python", str(python), "--require-hashes", "--requirement", str(requirements))
            except subprocess.CalledProcessError as error:
                raise NotInstalled(f"Could not install {requirements} into {folder}; the reason is above.") from error
            noted.write_text(wanted)  # last, so that a half-made one is made again
    return python


@contextmanager
def serving(
    stack: Stack, database: Mapping[str, str], *, workers: int, log: Path, pool: int | None = None, slow: float = 0.0
) -> Iterator[str]:
    """Runs the stack until the end of the block; gives its address once it is ready.

    `database`: the environment that names it. `pool`: connections of each worker; None: the stack's own number.
    `slow`: seconds that each transaction sleeps first. Raises NotInstalled.
    """
    settings = {**database, "POOL_SIZE": str(pool or stack.pool_size), "SLOW_DATABASE": str(slow)}
    with running(stack, settings, workers=workers, log=log) as server:
        wait_until(lambda: is_ready(server), process=server.process, log=log)
        yield server.url


@contextmanager
def running(stack: Stack, settings: Mapping[str, str], *, workers: int, log: Path) -> Iterator[Hypercorn]:
    """Runs the stack in an environment of `settings` until the end of the block; it may not be ready yet.

    Raises NotInstalled.
    """
    port = free_port()
    command = [part.format(workers=workers, port=port) for part in stack.command]
    python = environment(stack.name)
    # coverage is not installed there.
    own = {name: value for name, value in settings.items() if name != "COVERAGE_AT_IMPORT"}
    with log.open("w") as file:
        # A group of its own, by which its workers are found even where their parent has died.
        process = subprocess.Popen(
            [python, "-m", *command], cwd=ROOT, env=own, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield Hypercorn(process, port, log)
    finally:
        try:
            stop(process)
        finally:
            with suppress(ProcessLookupError):  # none is left
                os.killpg(process.pid, signal.SIGKILL)


def _works(python: Path) -> bool:
    """Whether it starts: neither it nor its base Python has moved."""
    return python.exists() and not subprocess.run([python, "-c", ""], check=False).returncode


def _uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], check=True)
