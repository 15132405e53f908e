"""Backups of the compose stack: `./run backup`, and `./run restore` beside it. What is refused is in test_backup.py."""

import fcntl
import os
import signal

import pytest

from harness.compose import Stack, docker
from harness.processes import free_port

pytestmark = pytest.mark.compose

READ_NOTED = """
export MYSQL_PWD=$(cat /run/secrets/db_password)
mysql -h127.0.0.1 -utally -NBe 'SELECT word FROM noted' tally
"""


@pytest.mark.rehearsal
def test_a_backup_is_restored_beside_the_stack_up_to_a_moment(stack: Stack) -> None:
    stack.mysql(
        "CREATE TABLE IF NOT EXISTS noted (word VARCHAR(9)); DELETE FROM noted; INSERT INTO noted VALUES ('🐘')"
    )
    assert "was restored" in stack.task("backup").stderr
    stack.mysql("INSERT INTO noted VALUES ('before')")
    ((moment,),) = stack.mysql("SELECT NOW(6)")
    stack.mysql("INSERT INTO noted VALUES ('after')")
    stack.task("backup", "--logs")
    name = f"{stack.project}-beside"
    restore = "restore", "--beside", name, "--port", str(free_port()), "--to", moment
    try:
        stack.over(HTTP_ADDRESS="0.0.0.0").task(*restore)
        assert docker("port", f"{name}-nginx-1").split()[2].startswith("127.0.0.1:"), "it has copies of all data"
        assert docker("exec", f"{name}-mysql-1", "sh", "-euc", READ_NOTED).split() == ["🐘", "before"]
        again = stack.task(*restore, check=False)
        assert (again.returncode, f"There is a project {name} already" in again.stderr) == (1, True)
    finally:
        stack.remove_beside(name)
    assert stack.status("/livez") == 200


@pytest.mark.rehearsal
def test_a_restore_in_place_is_noted_in_the_file_of_the_stacks_settings_and_is_none_without_that(stack: Stack) -> None:
    usual, own, blocking = (stack.directory / name for name in (".env", "own.env", ".run/env"))
    own.write_text(usual.read_text() if usual.exists() else "")
    noted = own.read_text()
    stack.compose("--env-file", own.name, "up", "--detach", "--force-recreate")
    stack.wait_until_ready()
    stack.task("backup")
    restore = "restore", "--in-place", "--yes"
    blocking.parent.mkdir(exist_ok=True)
    with (stack.directory / ".run/deploying").open("w") as deploying:
        fcntl.flock(deploying, fcntl.LOCK_EX)
        assert "Another deploy is under way here" in stack.task(*restore, check=False).stderr
    blocking.mkdir()  # so that nothing can be noted
    ended = stack.task(*restore, check=False)
    assert (ended.returncode, "has its former data again" in ended.stderr) == (1, True)
    assert own.read_text() == noted
    blocking.rmdir()
    stack.task(*restore)
    assert "DATA_VOLUME=data-" in own.read_text().removeprefix(noted)
    assert not usual.exists() or usual.read_text() == noted
    usual.write_text(own.read_text())
    stack.up("--force-recreate")


@pytest.mark.rehearsal
@pytest.mark.parametrize("task", ["restore", "backup --verify"])
def test_ctrl_c_leaves_nothing_of_a_restore_and_the_stack_as_it_was(stack: Stack, task: str) -> None:
    stack.task("backup")
    running = set(docker("ps", "--quiet", "--filter", f"name=^{stack.project}").split())
    volumes = docker("volume", "ls", "--quiet")
    name = f"{stack.project}-beside"
    options = ["--beside", name, "--port", str(free_port())] if task == "restore" else []
    for step in "-- unpacking", "-- checking":
        with stack.begin_task(*task.split(), *options) as process:
            assert process.stderr
            assert any(step in line for line in process.stderr)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) != 0
        assert docker("volume", "ls", "--quiet") == volumes
        assert set(docker("ps", "--quiet", "--filter", f"name=^{stack.project}").split()) == running
    assert stack.status("/livez") == 200


def test_a_moment_that_cannot_be_reached_is_refused_and_leaves_no_project(stack: Stack) -> None:
    name = f"{stack.project}-beside"
    ended = stack.task("restore", "--beside", name, "--port", str(free_port()), "--to", "2020-01-01", check=False)
    assert ended.returncode == 1
    assert "is before the first backup" in ended.stderr or "There is no backup" in ended.stderr
    assert not docker("volume", "ls", "--quiet", "--filter", f"name={name}")
    assert not docker("ps", "--all", "--quiet", "--filter", f"name={name}")


def test_a_restore_beside_leaves_what_another_project_has(stack: Stack) -> None:
    name = f"{stack.project}-beside"
    volume = docker("volume", "create", "--label", f"com.docker.compose.project={name}", f"{name}_other").strip()
    try:
        ended = stack.task("restore", "--beside", name, "--port", str(free_port()), check=False)
        assert (ended.returncode, f"There is a project {name} already" in ended.stderr) == (1, True)
        assert docker("volume", "ls", "--quiet", "--filter", f"name={name}").split() == [volume]
    finally:
        docker("volume", "rm", volume)


def test_what_the_tasks_do_not_know_is_told_with_how_they_are_used(stack: Stack) -> None:
    for task in ("backup", "--all"), ("restore", "--to"), ("restore", "--in-place", "--beside", "x"):
        ended = stack.task(*task, check=False)
        assert ended.returncode == 1
        assert ended.stderr.startswith(f"run: usage: ./run {task[0]} ")
