"""The servers of the suite `compose`: the stack as docker-compose starts it, and one replica that is asked directly.

It is a project of its own with the tree as it is, uncommitted changes too, and removed at the end. All share its MySQL,
but no two are measured at once.
"""

import platform
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from harness.compose import Stack, docker, inspect, new_stack
from harness.machine import PACKAGES, version_of
from harness.processes import wait_until
from loadtests.proof.measuring import MeasuringError, counted_as_own
from loadtests.proof.servers import say

_VERSIONS = f"""import platform
from importlib.metadata import version
print(", ".join(["Python " + platform.python_version(), *(f"{{name}} {{version(name)}}" for name in {PACKAGES})]))"""


def software() -> str:
    """Returns the versions of what is measured with; those in the images are in the notes."""
    engine = docker("version", "--format", "{{.Server.Version}}").strip()
    return f"Linux {platform.release()}, Docker {engine}, wrk {version_of('wrk', '-v')}"


@contextmanager
def servers(notes: list[str]) -> Iterator[dict[str, str]]:
    """Starts the stack; gives the addresses of a `replica` beside it, of `nginx`, and of its published `port`.

    The replica has as many workers as the whole stack. `notes` gets what the report must say. Raises MeasuringError.
    """
    with ExitStack() as context:
        folder = context.enter_context(tempfile.TemporaryDirectory(prefix="tally-load-"))
        stack = context.enter_context(new_stack(Path(folder) / "tally"))
        say("building the images and starting the stack (minutes, if nothing is in the build cache)")
        try:
            stack.up("--build")
        except AssertionError as error:
            raise MeasuringError(f"docker-compose: {error}") from error
        replicas, (nginx,) = stack.containers("web"), stack.containers("nginx")
        workers = [_count(one, "spawn_main") for one in replicas]
        say(f"starting one replica with {_of(sum(workers))}")
        alone = context.enter_context(_replica(stack, sum(workers)))
        addresses = {
            "replica": _address(stack, alone, 8000),
            "nginx": _address(stack, nginx, 8080),
            "port": stack.url,
        }
        notes += [_note_on_software(stack), _note_on_processes(workers, nginx, _proxy(stack.port))]
        with counted_as_own(_roots([*replicas, alone, nginx, *stack.containers("mysql")])):
            yield addresses
        notes.append(_note_on_memory(stack, [(sum(workers), alone), (workers[0], replicas[0])], nginx))


@contextmanager
def _replica(stack: Stack, workers: int) -> Iterator[str]:
    """Runs one more container of the service, which nginx does not know; gives its id when it is ready."""
    started = stack.compose("run", "--detach", "--no-deps", "--env", f"WORKERS={workers}", "web")
    container = started.stdout.split()[-1]
    try:
        wait_until(lambda: stack.is_ready(container), limit=60)
        yield container
    finally:
        docker("rm", "--force", "--volumes", container, check=False)


def _address(stack: Stack, container: str, port: int) -> str:
    """Returns the container's own address in the network of nginx and the service. Raises MeasuringError."""
    host = inspect(container)["NetworkSettings"]["Networks"][f"{stack.project}_front"]["IPAddress"]
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise MeasuringError(
            f"the address of a container ({host}:{port}) is not reached from here: {error}. Measure on Linux, on the "
            "machine of the Docker engine."
        ) from error
    return f"http://{host}:{port}"


def _processes(container: str) -> list[psutil.Process]:
    """Returns the container's processes, the first one's parent in the engine first."""
    first = psutil.Process(inspect(container)["State"]["Pid"])
    return [first.parent() or first, first, *first.children(recursive=True)]


def _count(container: str, words: str) -> int:
    """Returns the number of processes with these words in their command line."""
    found = 0
    for process in _processes(container)[1:]:
        with suppress(psutil.Error):  # it has ended since: a health check's, for one
            found += words in " ".join(process.cmdline())
    return found


def _proxy(port: int) -> psutil.Process | None:
    """Returns the engine's process that copies what comes to the published port; None where the kernel does it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if process.name() == "docker-proxy" and command[command.index("-host-port") + 1] == str(port):
                return process
    return None


def _roots(containers: Iterable[str]) -> list[psutil.Process]:
    """Returns the processes that are the stack's, with their children: the containers' and the engine's."""
    # Asked for in advance, since any process may end while they are listed.
    engine = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "dockerd"]
    return [*engine, *(_processes(container)[0] for container in containers)]


def _note_on_software(stack: Stack) -> str:
    web, nginx = stack.containers("web")[0], stack.containers("nginx")[0]
    python = docker("exec", web, "python", "-c", _VERSIONS).strip()
    proxy = version_of("docker", "exec", nginx, "nginx", "-v")
    mysql = stack.mysql("SELECT VERSION()")[0][0]
    return f"In the images: {python}, nginx {proxy}, MySQL {mysql}. The database is this MySQL, durable as well."


def _note_on_processes(workers: list[int], nginx: str, proxy: psutil.Process | None) -> str:
    way = "docker-proxy, a process that copies each byte" if proxy else "the kernel's address translation"
    return (
        f"Workers: {' and '.join(map(str, workers))} in the replicas of the stack, {sum(workers)} in the one asked "
        f"directly, {_count(nginx, 'worker process')} of nginx. The published port of 127.0.0.1 is behind {way}."
    )


def _note_on_memory(stack: Stack, replicas: list[tuple[int, str]], nginx: str) -> str:
    (mysql,) = stack.containers("mysql")
    named = [(f"a replica with {_of(workers)}", container) for workers, container in replicas]
    named += [("nginx", nginx), ("MySQL", mysql)]
    parts = [f"{name} {_memory(container)}" for name, container in named]
    return f"Memory after the load (`docker stats`): {', '.join(parts)}."


def _of(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _memory(container: str) -> str:
    return docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).split("/")[0].strip()
