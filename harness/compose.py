"""The whole bundle in Docker, as a newcomer gets it: a copy of the tree, one command, a project of its own."""

import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.processes import container_name, free_port, run_name, wait_until
from service.platform.settings import ROOT


def copy_tree(directory: Path) -> Path:
    """Copies the files of a fresh clone, with uncommitted changes, into `directory` and returns it."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(".git", *ignored))
    return directory


def docker(*arguments: str, check: bool = True) -> str:
    """Runs docker and returns what it prints."""
    ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300)
    assert not check or ended.returncode == 0, ended.stderr
    return ended.stdout


def logged(container: str) -> str:
    """Returns what the container has written, on both of its streams, since it was made."""
    command = ["docker", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def inspect(container: str) -> dict[str, Any]:
    """Returns what the engine knows about the container."""
    (found,) = json.loads(docker("inspect", container))
    assert isinstance(found, dict)
    return found


def health(container: str) -> dict[str, Any]:
    """Returns what Docker knows of its health: Status, and Log with the last checks' Output."""
    found: dict[str, Any] = inspect(container)["State"]["Health"]
    return found


@dataclass(frozen=True)
class Stack:
    """A project of docker-compose.prod.yml, perhaps with files over it."""

    project: str
    directory: Path
    port: int
    environment: dict[str, str]
    files: tuple[str, ...] = ("docker-compose.prod.yml",)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def over(self, *files: str, **environment: str) -> "Stack":
        """Returns the same project with more files over it, and more in the environment."""
        return replace(self, files=(*self.files, *files), environment={**self.environment, **environment})

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Runs docker-compose on the project."""
        files = [part for file in self.files for part in ("-f", file)]
        ended = subprocess.run(
            ["docker-compose", "--project-name", self.project, *files, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{self._logs()}"
        return ended

    def task(self, *arguments: str, given: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Runs ./run in the stack's folder, with `given` on its standard input, which is no terminal."""
        process = self.begin_task(*arguments)
        try:
            printed, errors = process.communicate(given, timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert not check or process.returncode == 0, f"{printed}\n{errors}"
        return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)

    def begin_task(self, *arguments: str) -> "subprocess.Popen[str]":
        """Starts ./run in the stack's folder as a terminal would, in a process group of its own."""
        return subprocess.Popen(
            ["./run", *arguments],
            cwd=self.directory,
            env={**self.environment, "COMPOSE_PROJECT_NAME": self.project},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def up(self, *arguments: str) -> None:
        """Starts or recreates containers, and returns when all are healthy."""
        self.compose("up", "--wait", "--wait-timeout", "240", *arguments)

    def remove_beside(self, name: str) -> None:
        """Removes the containers, networks and volumes of another project of this folder."""
        replace(self, project=name).compose("down", "--volumes", "--timeout", "0")

    def remove(self) -> None:
        """Removes the project's containers, networks, volumes and images."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "0", check=False)
        name = self.environment["IMAGE_NAME"]
        for image in docker("images", "--format", "{{.Repository}}:{{.Tag}}", check=False).split():
            if image.startswith(name):
                docker("rmi", image, check=False)

    def configuration(self) -> dict[str, Any]:
        """Returns the configuration as docker-compose understands it."""
        read: dict[str, Any] = json.loads(self.compose("config", "--format", "json").stdout)
        return read

    def containers(self, service: str) -> list[str]:
        """Returns the ids of the service's containers, the ended ones too."""
        return self.compose("ps", "--all", "--quiet", service).stdout.split()

    def secret(self, name: str) -> str:
        """Returns a secret, as a replica may read it."""
        return docker("exec", self.containers("web")[0], "cat", f"/run/secrets/{name}")

    def mysql(self, statement: str) -> list[list[str]]:
        """Runs SQL as root in the MySQL container; returns the rows."""
        script = 'MYSQL_PWD=$(cat /run/secrets/mysql_root_password) mysql -h127.0.0.1 -uroot -NBe "$1" "$2"'
        arguments = "sh", "-c", script, "-", statement, "tally"
        printed = docker("exec", self.containers("mysql")[0], *arguments)
        return [line.split("\t") for line in printed.splitlines()]

    def status(self, target: str = "/") -> int:
        """Returns the status of an answer through nginx, 0 if there is none."""
        try:
            return httpx.get(self.url + target, timeout=60).status_code
        except httpx.TransportError:
            return 0

    def is_ready(self, container: str) -> bool:
        """Whether the replica is ready, asked within it: nginx does not expose `/readyz`."""
        script = "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz')"
        return not subprocess.run(["docker", "exec", container, "python", "-c", script], capture_output=True).returncode

    def wait_until_ready(self) -> None:
        """Returns when every replica is ready, and a request passes nginx."""
        wait_until(lambda: all(self.is_ready(container) for container in self.containers("web")), limit=60)
        wait_until(lambda: self.status("/livez") == httpx.codes.OK)

    def access_log(self, since: str = "0") -> list[dict[str, Any]]:
        """Returns the lines of nginx's access log, but for its own health check's."""
        printed = docker("logs", "--since", since, self.containers("nginx")[0])
        lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "request" and line["host"]]

    def _logs(self) -> str:
        command = ["docker-compose", "--project-name", self.project, "logs", "--tail", "30"]
        return subprocess.run(command, capture_output=True, text=True).stdout


@contextmanager
def new_stack(directory: Path) -> Iterator[Stack]:
    """A project of its own, not started, with a port of its own; removed at the end of the block."""
    documented = {line.split("=")[0].strip("# ") for line in (ROOT / ".quartenv.example").read_text().splitlines()}
    name = container_name()
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if key not in documented and "COMPOSE_" not in key},
        "IMAGE_NAME": name,
        "HTTP_PORT": str(port),
    }
    stack = Stack(name, copy_tree(directory), port, environment)
    try:
        yield stack
    finally:
        stack.remove()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not one of xdist's workers, which inherit it
        os.environ["TEST_RUN"] = uuid.uuid4().hex[:8]


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and shutil.which("docker"):
        remove_all(run_name())  # what workers have left that had to end at once, after Ctrl-C


def remove_all(name: str) -> None:
    """Removes the containers, networks and volumes with this prefix."""
    for kind, remove in ("ps", "rm"), ("network", "network rm"), ("volume", "volume rm"):
        listing = [kind, "--all"] if kind == "ps" else [kind, "ls"]
        if found := docker(*listing, "--quiet", "--filter", f"name=^{name}", check=False).split():
            docker(*remove.split(), "--force", *(["--volumes"] if kind == "ps" else []), *found, check=False)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The running bundle. A test that changes it leaves it as it was."""
    with new_stack(tmp_path_factory.mktemp("stack") / "tally") as stack:
        stack.up("--build")
        yield stack
