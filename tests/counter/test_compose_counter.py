"""The counter's promise on the whole stack: every hit a number of its own, none lost, whatever is restarted."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from harness.compose import Stack, docker, inspect
from harness.load import get_at_once
from harness.processes import wait_until
from service.platform.settings import ROOT
from tests.counter.page import number_in

pytestmark = pytest.mark.compose


def hit(stack: Stack) -> int:
    """Counts one hit and returns its number."""
    answer = httpx.get(stack.url)
    assert answer.status_code == 200, answer.text
    return number_in(answer.text)


async def hits(
    stack: Stack, count: int, connections: int, until: "asyncio.Task[None] | None" = None
) -> list[tuple[int, str]]:
    return await get_at_once([("127.0.0.1", stack.port)], count, connections, until)


def numbers(answers: list[tuple[int, str]]) -> list[int]:
    return [number_in(body) for status, body in answers if status == 200]


@pytest.mark.parametrize("count", [pytest.param(20_000, marks=pytest.mark.rehearsal), 4000])
async def test_many_hits_on_fifty_connections_get_the_next_numbers(stack: Stack, count: int) -> None:
    before = hit(stack)
    answers = await hits(stack, count * 3 // 4, connections=50)
    stack.up("--no-recreate", "--scale", "web=4")
    answers += await hits(stack, count // 4, connections=50)
    assert sorted(numbers(answers)) == list(range(before + 1, before + count + 1))
    assert hit(stack) == before + count + 1
    stack.up("--no-recreate")


async def test_a_killed_replica_costs_at_most_the_hits_that_it_held_and_no_number_is_given_twice(stack: Stack) -> None:
    victim = stack.containers("web")[0]
    lost = 0
    for _ in range(3):  # it may hold none at the moment of the kill
        lost = lost or await lost_by_a_kill(stack, victim)
    assert 0 < lost <= 20


async def lost_by_a_kill(stack: Stack, victim: str) -> int:
    """Kills the replica under 20 clients; returns how many hits were not answered, when it is ready again."""
    before, restarts = hit(stack), inspect(victim)["RestartCount"]

    async def kill() -> None:
        await asyncio.to_thread(wait_until, lambda: hit(stack) > before + 500)
        await asyncio.to_thread(docker, "exec", victim, "sh", "-c", "kill -9 -1", check=False)

    killing = asyncio.create_task(kill())  # however long docker takes, others hit meanwhile
    answers = await hits(stack, 4000, connections=20, until=killing)
    await killing
    wait_until(lambda: inspect(victim)["RestartCount"] == restarts + 1)
    given = numbers(answers)
    assert {status for status, _ in answers} <= {200, 502, 0}
    assert len(set(given)) == len(given)
    stack.wait_until_ready()
    return len(answers) - len(given)


def test_a_load_run_is_against_the_stack_that_runs_whatever_port_is_set(stack: Stack) -> None:
    before = hit(stack)
    (stack.directory / ".venv").symlink_to(ROOT / ".venv")
    stack.over(HTTP_PORT="1").task("load", "visitors", "--headless", "--users", "2", "--hits", "20")
    assert hit(stack) > before + 20


def test_the_roll_up_is_a_job_of_the_stack_which_plain_up_does_not_start(stack: Stack) -> None:
    assert not stack.containers("roll-up")
    hit(stack)
    stack.mysql("UPDATE receipt SET created_at = created_at - INTERVAL 2 DAY")
    hit(stack)
    ended = stack.compose("run", "--rm", "roll-up")
    assert re.search(r"^page: [0-9]+ receipts$", ended.stdout, re.MULTILINE), ended.stdout
    (books,) = stack.mysql(
        "SELECT (SELECT COUNT(*) FROM receipt), (SELECT SUM(hits) + 1 FROM history), count FROM counter"
    )
    assert books[0] == "1"
    assert books[1] == books[2]
    stack.compose("exec", "web", "quart", "--app", "service.asgi:app", "receipts", "verify")


def test_the_count_goes_on_after_down_and_up_and_after_the_database_was_killed(stack: Stack) -> None:
    before = hit(stack)
    stack.compose("down")
    stack.up()
    assert hit(stack) == before + 1
    (mysql,) = stack.containers("mysql")
    docker("kill", mysql)
    docker("start", mysql)
    stack.wait_until_ready()
    assert hit(stack) == before + 2


def test_hits_in_flight_when_every_replica_is_stopped_are_counted_and_answered(stack: Stack) -> None:
    before = hit(stack)
    replicas = stack.containers("web")

    def at_work(statement: str) -> int:
        counted = "SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Query' AND TRIM(info) LIKE "
        return int(stack.mysql(f"{counted}'{statement}'")[0][0])

    with ThreadPoolExecutor(8) as threads:
        threads.submit(stack.mysql, "BEGIN; SELECT * FROM counter FOR UPDATE; DO SLEEP(2); COMMIT")
        wait_until(lambda: at_work("DO SLEEP(2)"))
        sent = [threads.submit(httpx.get, stack.url, timeout=30) for _ in range(6)]
        wait_until(lambda: at_work("UPDATE counter%"))
        docker("stop", *replicas)
        answers = [one.result() for one in sent]
    # A replica that had begun to stop before it was asked has refused the connection, and nginx has said so.
    assert {answer.status_code for answer in answers} <= {200, 503}
    given = sorted(number_in(answer.text) for answer in answers if answer.status_code == 200)
    assert given == list(range(before + 1, before + 1 + len(given)))
    assert given
    assert [inspect(replica)["State"]["ExitCode"] for replica in replicas] == [0, 0]
    docker("start", *replicas)
    stack.wait_until_ready()
    assert hit(stack) == before + len(given) + 1
