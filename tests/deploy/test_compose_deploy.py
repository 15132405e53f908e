"""Deploys of the compose stack: other images under clients that do not try again, and those that go wrong."""

import asyncio
import fcntl
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from harness.compose import Stack, docker, inspect, new_stack
from harness.load import get_at_once
from harness.processes import wait_until

pytestmark = pytest.mark.compose

T = TypeVar("T")

CLIENTS = 64
FACTORY = "service/__init__.py"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, whose folder is a Git repository."""
    with new_stack(tmp_path_factory.mktemp("deploys") / "tally") as stack:
        git(stack, "init", "--quiet")
        commit(stack)
        stack.up("--build")
        yield stack


def git(stack: Stack, *arguments: str) -> str:
    own = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "safe.directory=*")
    command = ["git", *own, *arguments]
    return subprocess.run(command, cwd=stack.directory, check=True, capture_output=True, text=True).stdout.strip()


def commit(stack: Stack) -> str:
    """Commits what is in the folder; returns the tag of its image."""
    git(stack, "add", "--all")
    git(stack, "commit", "--quiet", "--allow-empty", "--message", "x")
    return git(stack, "rev-parse", "--short=12", "HEAD")


def change(stack: Stack, path: str, text: str) -> str:
    """Adds text to a file, and commits it; returns the tag of its image."""
    with (stack.directory / path).open("a") as file:
        file.write(text)
    return commit(stack)


def start(stack: Stack, *arguments: str) -> "subprocess.Popen[str]":
    """Starts a task of ./run, in a process group of its own."""
    return subprocess.Popen(
        ["./run", *arguments],
        cwd=stack.directory,
        env={**stack.environment, "COMPOSE_PROJECT_NAME": stack.project},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(stack: Stack, *arguments: str) -> tuple[int, str]:
    """Runs a task of ./run; returns its exit code and what it wrote."""
    process = start(stack, *arguments)
    try:
        written, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, written


def tags(stack: Stack) -> list[str]:
    """Returns the tags of the images that the replicas have."""
    return [inspect(one)["Config"]["Image"].rpartition(":")[2] for one in stack.containers("web")]


def under_load(stack: Stack, task: Callable[[], T]) -> T:
    """Returns what the task returns, which it calls under clients that do not try again.

    Each request must have been answered, and no number given twice.
    """

    async def send() -> tuple[list[tuple[int, str]], T]:
        changing = asyncio.create_task(asyncio.to_thread(task))
        answers = await get_at_once([("127.0.0.1", stack.port)], CLIENTS, CLIENTS, until=changing)
        return answers, await changing

    answers, changed = asyncio.run(send())
    assert Counter(status for status, _ in answers) == {200: len(answers)}
    assert len(set(answers)) == len(answers), "a number was given twice"
    return changed


def test_no_request_fails_when_replicas_come_and_go(deployed: Stack) -> None:
    first, second = deployed.containers("web")

    def come_and_go() -> None:
        try:
            deployed.up("--no-recreate", "--scale", "web=4")
            for replica in (first, second):
                restart(replica)
            deployed.up("--no-recreate", "--scale", "web=1")
        finally:
            deployed.up("--no-recreate")

    under_load(deployed, come_and_go)
    assert len(deployed.containers("web")) == 2


def restart(container: str) -> None:
    docker("restart", container)
    wait_until(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy")


def test_a_deploy_and_a_rollback_replace_all_replicas_and_no_request_fails(deployed: Stack) -> None:
    nginx = deployed.containers("nginx")
    first = change(deployed, FACTORY, "# first\n")
    code, written = under_load(deployed, lambda: run(deployed, "deploy"))
    assert (code, tags(deployed)) == (0, [first] * 2), written
    (deployed.directory / ".env").write_text("HTTP_PORT=1\nIMAGE_TAG=x")  # the environment's own goes before it
    second = change(deployed, FACTORY, "# second\n")
    (code, written), (back_code, back) = under_load(
        deployed, lambda: (run(deployed, "deploy"), run(deployed, "rollback"))
    )
    assert code == 0, written
    assert f"{second} serves; ./run rollback goes back to {first}" in written
    assert (back_code, tags(deployed)) == (0, [first] * 2), back
    assert {"HTTP_PORT=1", f"IMAGE_TAG={first}", "NGINX_TAG=0.1.0", "MYSQL_TAG=0.1.0"} == set(environment(deployed))
    replicas = deployed.containers("web")
    deployed.up("--no-recreate")
    assert deployed.containers("web") == replicas
    assert deployed.configuration()["services"]["web"]["image"].endswith(f":{first}")
    assert deployed.containers("nginx") == nginx


ASGI = "service/asgi.py"

BROKEN = {
    "all its views answer 500": (
        "\n\n@app.before_request\nasync def fail():\n    import quart\n\n    assert quart.request.path == '/readyz'\n",
        "HTTP Error 500",
    ),
    "it does not start": ("\nsys.exit('broken on purpose')\n", "broken on purpose"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_image_that_does_not_serve_gets_no_traffic_and_is_taken_back(how: str, deployed: Stack) -> None:
    replicas, before, noted = deployed.containers("web"), (deployed.directory / ASGI).read_text(), environment(deployed)
    addition, reason = BROKEN[how]
    tag = change(deployed, ASGI, addition)
    try:
        code, written = under_load(deployed, lambda: run(deployed, "deploy"))
    finally:
        (deployed.directory / ASGI).write_text(before)
        commit(deployed)
    assert code == 1, written
    assert f"A replica of {deployed.environment['IMAGE_NAME']}:{tag} does not serve" in written
    assert reason in written
    assert deployed.containers("web") == replicas
    assert environment(deployed) == noted


def environment(stack: Stack) -> list[str]:
    """Returns the lines of .env, none if there is no such file."""
    path = stack.directory / ".env"
    return path.read_text().splitlines() if path.exists() else []


def test_a_migration_that_fails_replaces_nothing(deployed: Stack) -> None:
    replicas = deployed.containers("web")
    revision = deployed.directory / "migrations/versions/9999_broken.py"
    (head,) = sorted(path.name[:4] for path in revision.parent.glob("[0-9]*.py"))[-1:]
    revision.write_text(
        f'revision = "9999"\ndown_revision = "{head}"\n\n\ndef upgrade() -> None:\n    raise ValueError("on purpose")\n'
    )
    commit(deployed)
    try:
        code, written = run(deployed, "deploy")
    finally:
        revision.unlink()
        commit(deployed)
    assert (code, "on purpose" in written) == (1, True)
    assert "The migration failed (above): nothing was replaced" in written
    assert deployed.containers("web") == replicas


def test_two_deploys_at_once_are_refused(deployed: Stack) -> None:
    (deployed.directory / ".run").mkdir(exist_ok=True)
    with (deployed.directory / ".run/deploying").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(deployed, "deploy") == (1, "run: Another deploy is under way here.\n")


def test_ctrl_c_leaves_the_replicas_that_were_there(deployed: Stack) -> None:
    replicas = set(deployed.containers("web"))
    change(deployed, FACTORY, "# interrupted\n")
    process = start(deployed, "deploy")
    wait_until(lambda: set(deployed.containers("web")) > replicas, limit=120)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert set(deployed.containers("web")) == replicas
    assert deployed.status("/livez") == 200


def test_where_nothing_runs_it_says_so(tmp_path: Path) -> None:
    with new_stack(tmp_path / "tally") as stack:
        code, written = run(stack, "deploy")
    assert (code, "No replica of the compose stack is here" in written) == (1, True)


@pytest.mark.rehearsal
def test_ten_deploys_in_a_row_fail_no_request(deployed: Stack) -> None:
    for number in range(10):
        tag = change(deployed, FACTORY, f"# {number}\n")
        code, written = under_load(deployed, lambda: run(deployed, "deploy"))
        assert (code, tags(deployed)) == (0, [tag] * 2), written
