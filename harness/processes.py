"""Starting and stopping real processes for the tests, and waiting for conditions with a limit."""

import http
import http.client
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from service.platform.settings import ROOT

_Answer = TypeVar("_Answer")


def container_name() -> str:
    """Returns a new name for a container or a project, which begins with that of this run, by which all are found."""
    return f"{run_name()}-{uuid.uuid4().hex[:8]}"


def run_name() -> str:
    """Returns with what the names of this run's containers begin: TEST_RUN is the same in all its processes."""
    return f"tally-test-{os.environ.get('TEST_RUN', 'alone')}"


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(
    condition: Callable[[], object],
    *,
    limit: float = 30.0,
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
) -> None:
    """Returns when `condition` holds; fails after `limit` seconds or when `process` has ended, with the log's end."""
    end = time.monotonic() + limit
    while not condition():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > end:
            what = "the process ended" if ended else f"it did not come true within {limit:g} s"
            tail = f"; the log's end:\n{log.read_text()[-3000:]}" if log else ""
            raise AssertionError(f"waiting for a condition: {what}{tail}")
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes], limit: float = 40.0) -> None:
    """Ends the process by SIGTERM, or with all its children by SIGKILL after `limit` seconds."""
    process.terminate()
    try:
        process.wait(limit)
    except subprocess.TimeoutExpired:
        for_each(psutil.Process(process.pid).children(recursive=True), psutil.Process.kill)
        process.kill()
        process.wait()


def for_each(processes: Iterable[psutil.Process], ask: Callable[[psutil.Process], _Answer]) -> list[_Answer]:
    """Returns what `ask` returns for each process, without those that have ended since they were listed."""
    answers = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            answers.append(ask(process))
    return answers


@dataclass(frozen=True)
class Hypercorn:
    """A running Hypercorn master."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        """Returns the worker processes (not multiprocessing's resource tracker)."""
        children = psutil.Process(self.process.pid).children()
        commands = for_each(children, lambda child: (child, child.cmdline()))
        return [child for child, command in commands if any("spawn_main" in part for part in command)]

    def accepts(self) -> bool:
        """Whether a connection is accepted."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def logged(self, text: str) -> bool:
        """Whether `text` has been logged."""
        return text in self.log.read_text()


@contextmanager
def hypercorn(
    environment: Mapping[str, str],
    log: Path,
    *,
    app: str = "service.asgi:app",
    workers: int = 2,
    cwd: Path = ROOT,
    port: int | None = None,
    unix_socket: Path | None = None,
    options: Sequence[str] = (),
    python: str | Path = sys.executable,
) -> Iterator[Hypercorn]:
    """Runs Hypercorn with the hypercorn.toml of `cwd` until the block ends, on a port of its own or a Unix socket."""
    port = port or free_port()
    bind = f"unix:{unix_socket}" if unix_socket else f"127.0.0.1:{port}"
    command = [python, "-m", "hypercorn", "--config", "hypercorn.toml", "--bind", bind, *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--workers", str(workers), app], cwd=cwd, env=dict(environment), stdout=file, stderr=file
        )
    server = Hypercorn(process, port, log)
    try:
        wait_until(lambda: log.read_text().count("Running on") >= workers, process=process, log=log)
        yield server
    finally:
        stop(process)


def is_ready(server: Hypercorn) -> bool:
    """Whether `/readyz` is answered 200."""
    return is_ok(server.port, "/readyz")


@contextmanager
def ready_hypercorn(environment: Mapping[str, str], log: Path, **named: Any) -> Iterator[Hypercorn]:
    """Starts Hypercorn as `hypercorn` does, waits until it is ready, and stops it at the end."""
    with hypercorn(environment, log, **named) as server:
        wait_until(lambda: is_ready(server), process=server.process, log=log)
        yield server


def is_ok(port: int, path: str) -> bool:
    """Whether 127.0.0.1 answers 200, asked at little cost: httpx.get makes a context for TLS, which takes 20 ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
