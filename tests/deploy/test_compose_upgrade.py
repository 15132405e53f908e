"""The upgrade of the database's server, as docs/upgrading-the-database.md has it, and the way back."""

from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from harness.compose import Stack, docker, inspect, new_stack
from harness.processes import free_port

pytestmark = [pytest.mark.compose, pytest.mark.rehearsal]

NEW = "next"
"""The tag of the new version, which is the same here: one version of MySQL is all that is at hand."""


def image_of_mysql(stack: Stack) -> str:
    return str(inspect(stack.containers("mysql")[0])["Config"]["Image"])


def test_the_server_is_upgraded_on_a_copy_then_in_place_and_goes_back(tmp_path: Path) -> None:
    with new_stack(tmp_path / "stack") as stack:
        stack.up("--build")
        former = image_of_mysql(stack)
        new = f"{stack.environment['IMAGE_NAME']}-mysql:{NEW}"
        stack.over(MYSQL_TAG=NEW).compose("build", "mysql")
        stack.mysql("CREATE TABLE noted (word VARCHAR(9)); INSERT INTO noted VALUES ('before')")
        stack.task("backup")
        check_on_a_copy(stack, new)
        stack.task("backup", "--logs")
        moment = datetime.now(UTC).isoformat()
        (stack.directory / ".env").write_text(f"MYSQL_TAG={NEW}\n")
        stack.compose("up", "--detach", "--no-deps", "--wait", "mysql")
        stack.wait_until_ready()
        assert image_of_mysql(stack) == new
        stack.mysql("INSERT INTO noted VALUES ('after')")
        stack.task("backup")
        (stack.directory / ".env").write_text("")
        stack.task("restore", "--in-place", "--yes", "--to", moment)
        stack.wait_until_ready()
        assert image_of_mysql(stack) == former
        assert stack.mysql("SELECT word FROM noted") == [["before"]]


def check_on_a_copy(stack: Stack, new: str) -> None:
    name, port = f"{stack.project}-copy", free_port()
    copy = Stack(name, stack.directory, port, {**stack.environment, "HTTP_PORT": str(port)})
    try:
        stack.task("restore", "--beside", name, "--port", str(port))
        copy.over(MYSQL_TAG=NEW).compose("up", "--detach", "--no-deps", "--wait", "mysql")
        copy.wait_until_ready()
        assert image_of_mysql(copy) == new
        assert httpx.get(f"{copy.url}/livez").status_code == httpx.codes.OK
        assert copy.mysql("SELECT word FROM noted") == [["before"]]
    finally:
        stack.remove_beside(name)
        assert not docker("ps", "--all", "--quiet", "--filter", f"name=^{name}")
