"""./run's tasks that look at what runs, where that is the compose stack."""

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from harness.compose import Stack
from harness.processes import wait_until

pytestmark = pytest.mark.compose


def run(stack: Stack, *arguments: str, given: str = "") -> str:
    """Runs ./run in the stack's folder, with `given` on its standard input, and returns what it prints."""
    return stack.task(*arguments, given=given).stdout


def test_shell_is_a_python_shell_in_a_replica(stack: Stack) -> None:
    assert "it is service" in run(stack, "shell", given="print('it is', app.name)\n")


def test_db_is_a_client_in_the_databases_container_as_the_services_user(stack: Stack) -> None:
    shown = run(stack, "db", "-N", given="SELECT DATABASE(), CURRENT_USER()")
    assert shown.split() == ["tally", "tally@%"]


def test_migrate_is_alembic_in_the_jobs_container(stack: Stack) -> None:
    assert "(head)" in run(stack, "migrate", "current")


def test_quart_runs_a_command_of_the_applications_in_a_replica(stack: Stack) -> None:
    (token,) = run(stack, "quart", "tokens", "make", "someone", "--scope", "count").split()
    assert len(token) >= 43


def test_logs_follows_every_containers_log(stack: Stack, tmp_path: Path) -> None:
    printed = tmp_path / "logs"
    environment = {**stack.environment, "COMPOSE_PROJECT_NAME": stack.project}
    with printed.open("w") as file:
        logs = subprocess.Popen(["./run", "logs"], cwd=stack.directory, env=environment, stdout=file, process_group=0)
    try:
        wait_until(lambda: all(f"{name}-1" in printed.read_text() for name in ("mysql", "web", "nginx")), process=logs)
        httpx.get(f"{stack.url}/livez/followed")
        wait_until(lambda: "/livez/followed" in printed.read_text(), process=logs)
    finally:
        os.killpg(logs.pid, signal.SIGINT)  # as Ctrl-C does
        logs.wait()
