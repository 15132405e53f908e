"""A stack of its own for deploys, and clients that do not try again beside them."""

import asyncio
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from harness.compose import Stack, inspect, new_stack
from harness.load import get_at_once
from tests.counter.page import number_in

T = TypeVar("T")

CLIENTS = 64

PAUSE = 0.04
"""Seconds between two requests of a client, so that the load leaves processors to what it tests, and connections are
idle, which is when they are closed."""
FACTORY = "service/__init__.py"

BROKEN = {
    "all its views answer 500": (
        "\n\n@app.before_request\nasync def fail():\n    import quart\n\n    assert quart.request.path == '/readyz'\n",
        "HTTP Error 500",
    ),
    "it does not start": ("\nsys.exit('broken on purpose')\n", "broken on purpose"),
}
"""What is added to service/asgi.py, and what is then said."""


class Served(Protocol):
    """What answers on 127.0.0.1."""

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...


@contextmanager
def stack_of_a_repository(directory: Path, registry: str = "") -> Iterator[Stack]:
    """A running stack whose folder is a Git repository, and whose images are named for the registry."""
    with new_stack(directory) as bare:
        stack = bare.over(IMAGE_NAME=registry + bare.project)
        (stack.directory / ".quartenv").write_text("API_TOKENS_REQUIRED=false\n")
        git(stack, "init", "--quiet")
        commit(stack)
        stack.up("--build")
        try:
            yield stack
        finally:
            stack.remove()


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


def run(stack: Stack, *arguments: str) -> tuple[int, str]:
    """Runs a task of ./run; returns its exit code and what it wrote."""
    ended = stack.task(*arguments, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def tags(stack: Stack) -> list[str]:
    """Returns the tags of the images that the replicas have."""
    return [inspect(one)["Config"]["Image"].rpartition(":")[2] for one in stack.containers("web")]


def under_load(stack: Served, task: Callable[[], T], pause: float = PAUSE) -> T:
    """Returns what the task returns, which it calls under clients that do not try again, and wait `pause` seconds.

    Each request must have been answered, and each number given once.
    """

    async def send() -> tuple[list[tuple[int, str]], T]:
        changing = asyncio.create_task(asyncio.to_thread(task))
        keyed = asyncio.create_task(post_with_keys(stack, changing))
        answers = await get_at_once([("127.0.0.1", stack.port)], CLIENTS, CLIENTS, changing, pause)
        return answers + await keyed, await changing

    answers, changed = asyncio.run(send())
    statuses = Counter(status for status, _ in answers)
    assert set(statuses) == {200}, statuses
    numbers = sorted(number_in(body) for _, body in answers)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a number was lost, or given twice"
    print(f"{len(answers)} requests, none failed")  # `./run rehearse` shows it
    return changed


async def post_with_keys(stack: Served, until: "asyncio.Task[Any]") -> list[tuple[int, str]]:
    """Counts with a new Idempotency-Key each time; returns statuses, and bodies as those of `GET /`."""
    answers = []
    async with httpx.AsyncClient(base_url=stack.url) as client:
        while not until.done():
            key = {"Idempotency-Key": uuid.uuid4().hex}
            answer = await client.post("/counters/page/hits", headers=key)
            answers.append((answer.status_code, f"<h1>Counter: {answer.json().get('number')}</h1>"))
    return answers
