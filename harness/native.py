"""Installations by `./run up` in copies of the repository, which share its virtual environment."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.compose import copy_tree
from harness.processes import free_port, is_ok, wait_until
from service.platform.settings import ROOT

ANSWERS = "it answers on "


@dataclass
class Installation:
    """A copy of the repository, and `./run up` in it."""

    directory: Path
    environment: Mapping[str, str]
    settings: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings['HTTP_PORT']}"

    @property
    def tls_port(self) -> int:
        return int(self.settings["HTTPS_PORT"])

    @property
    def output(self) -> Path:
        return self.directory.parent / "output"

    def run(self, *command: str, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the copy, with `given` on its standard input, to its end."""
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**self.environment, **self.settings, **settings},
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
        )

    def begin(self) -> subprocess.Popen[bytes]:
        """Starts `./run up` as a terminal would, in a process group of its own, and does not wait for it."""
        with self.output.open("w") as file:
            process = subprocess.Popen(
                ["./run", "up"],
                cwd=self.directory,
                env={**self.environment, **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                process_group=0,
            )
        self.started.append(process)
        return process

    def up(self) -> subprocess.Popen[bytes]:
        """Starts `./run up` and returns when it says that it answers."""
        process = self.begin()
        wait_until(lambda: ANSWERS in self.output.read_text(), limit=90, process=process, log=self.output)
        return process

    def answers(self) -> bool:
        """Whether a request comes back through nginx."""
        return is_ok(int(self.settings["HTTP_PORT"]), "/livez")

    def processes(self) -> list[psutil.Process]:
        """Returns the processes whose working directory is the copy or within it."""
        return self.program("")

    def program(self, part: str) -> list[psutil.Process]:
        """Returns those of these processes that have `part` in their command line, the oldest first."""
        return sorted(
            (process for process in psutil.process_iter() if self._runs(part, process)),
            key=lambda process: process.create_time(),
        )

    def _runs(self, part: str, process: psutil.Process) -> bool:
        try:
            here = Path(process.cwd()).is_relative_to(self.directory) and process.status() != psutil.STATUS_ZOMBIE
            return here and part in " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    def interrupt(self, limit: float = 60) -> int:
        """Presses Ctrl-C, which a terminal sends to the whole group, and returns the exit code of `./run up`."""
        process = self.started[-1]
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(limit)

    def kill(self) -> None:
        """Ends every process at once, as a power cut would, but for what the system keeps in memory."""
        while running := self.processes():
            for process in running:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for started in self.started:
            started.wait(10)

    def clear(self) -> None:
        """Ends everything that still runs in the copy, whatever the test has left."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
        psutil.wait_procs(self.processes(), timeout=60)
        self.kill()


@contextmanager
def installation(directory: Path, environment: Mapping[str, str], **settings: str) -> Iterator[Installation]:
    """Makes a copy with ports of its own and one worker; at the end nothing of it runs any more."""
    copy = copy_tree(directory / "copy")
    (copy / ".venv").symlink_to(ROOT / ".venv")
    ports = {"HTTP_PORT": str(free_port()), "WEB_PORT": str(free_port())}
    # It reads its own .quartenv, and what runs in it is not this repository's code.
    other = {name: environment[name] for name in environment if not name.startswith(("PYTHON_DOTENV", "COVERAGE"))}
    made = Installation(copy, other, {"WORKERS": "1", **ports, **settings})
    try:
        yield made
    finally:
        made.clear()
