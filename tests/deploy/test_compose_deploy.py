"""Deploys of the compose stack: other images under clients that do not try again, and those that go wrong."""

import fcntl
import http.client
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from harness.compose import Stack, docker, health, logged, new_stack
from harness.processes import wait_until
from tests.deploy.deploys import BROKEN, FACTORY, change, commit, run, stack_of_a_repository, tags, under_load

pytestmark = pytest.mark.compose

NOT_FOUND = "There is nothing at this address."


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_of_a_repository(tmp_path_factory.mktemp("deploys") / "tally") as stack:
        yield stack


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
    wait_until(lambda: health(container)["Status"] == "healthy")


def test_a_replica_whose_database_comes_late_costs_no_request_and_says_why_it_is_not_ready(deployed: Stack) -> None:
    late, _ = deployed.containers("web")
    network = f"{deployed.project}_database"

    def come_late() -> None:
        docker("stop", late)
        docker("network", "disconnect", network, late)
        try:
            docker("start", late)
            wait_until(lambda: any("error 2003" in check["Output"] for check in health(late)["Log"]))
            begin = datetime.now(UTC).isoformat()
            wait_until(lambda: len(deployed.access_log(since=begin)) > 1000)
        finally:
            docker("network", "connect", network, late)
        wait_until(lambda: health(late)["Status"] == "healthy")

    under_load(deployed, come_late)
    assert "not ready: The database cannot be used (error 2003)" in logged(late)


def test_a_deploy_and_a_rollback_replace_all_replicas_and_no_request_fails(deployed: Stack) -> None:
    (deployed.directory / ".env").write_text("HTTP_PORT=1\nIMAGE_TAG=x")  # the environment's own goes before it
    nginx = deployed.containers("nginx")
    conf = deployed.directory / "nginx.conf"
    conf.write_text(conf.read_text().replace(NOT_FOUND, "Otherwise."))
    tag = change(deployed, FACTORY, "# changed\n")

    def there_and_back() -> Iterator[tuple[int, str, list[str], str]]:
        for task in "deploy", "rollback":
            yield *run(deployed, task), tags(deployed), detail(deployed)

    (code, written, *there), (back_code, back_written, *back) = under_load(deployed, lambda: tuple(there_and_back()))
    assert (code, *there) == (0, [tag] * 2, "Otherwise."), written
    assert f"{tag} serves; ./run rollback goes back to 0.1.0" in written
    assert (back_code, *back) == (0, ["0.1.0"] * 2, NOT_FOUND), back_written
    assert {"HTTP_PORT=1", "IMAGE_TAG=0.1.0", "NGINX_TAG=0.1.0", "MYSQL_TAG=0.1.0"} == set(environment(deployed))
    replicas = deployed.containers("web")
    deployed.up("--no-recreate")
    assert deployed.containers("web") == replicas
    assert deployed.configuration()["services"]["web"]["image"].endswith(":0.1.0")
    assert deployed.containers("nginx") == nginx


@pytest.mark.rehearsal
def test_a_deploy_of_the_same_image_applies_changed_settings_and_no_request_fails(deployed: Stack) -> None:
    run(deployed, "deploy")
    first, (nginx,) = deployed.containers("web"), deployed.containers("nginx")
    noted = (deployed.directory / ".run/deploys").read_text()
    code, written = run(deployed, "deploy")
    assert (code, deployed.containers("web")) == (0, first), written
    assert "and these settings already" in written
    quartenv = deployed.directory / ".quartenv"
    before = quartenv.read_text()
    quartenv.write_text(before + "VERSION_HEADER=X-Version\n")
    try:
        changed = deployed.over(MAX_BODY_SIZE="1024", HTTP_ADDRESS="127.0.0.2")
        code, written = under_load(deployed, lambda: run(changed, "deploy"))
    finally:
        quartenv.write_text(before)
    assert code == 0, written
    assert "nginx still has its former address and ports: docker-compose -f docker-compose.prod.yml" in written
    assert " up --detach --no-deps nginx makes its container anew, which cuts off clients" in written
    assert not set(first) & set(deployed.containers("web"))
    assert httpx.get(deployed.url).headers["X-Version"] == tags(deployed)[0]
    assert httpx.post(deployed.url, content=bytes(1025)).status_code == 413
    assert deployed.containers("nginx") == [nginx]
    assert (deployed.directory / ".run/deploys").read_text() == noted


def test_new_passwords_and_a_new_key_fail_no_request_and_the_former_password_is_refused(deployed: Stack) -> None:
    former = {name: deployed.secret(name) for name in ("db_password", "secret_key")}
    (mysql,) = deployed.containers("mysql")

    def rotate_twice() -> tuple[int, str]:
        """The first time it is stopped in the middle."""
        with deployed.begin_task("rotate") as process:
            assert process.stdout
            assert any("1 of 2 replicas have the new secrets" in line for line in process.stdout)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) != 0
        assert (deployed.directory / ".run/rotating").exists()
        return run(deployed, "rotate")

    code, written = under_load(deployed, rotate_twice)
    assert code == 0, written
    assert deployed.secret("secret_key_former") == former["secret_key"]
    for password, status in (former["db_password"], 1), (deployed.secret("db_password"), 0):
        login = ["docker", "exec", "--env", f"MYSQL_PWD={password}", mysql, "mysql", "-h127.0.0.1", "-utally", "-eDO 0"]
        assert subprocess.run(login, capture_output=True).returncode == status
    deployed.compose("run", "--rm", "--no-deps", "migrate", "current")  # with its own new password


def test_a_reload_of_nginx_goes_on_answering_on_a_connection_that_is_kept(deployed: Stack) -> None:
    (nginx,) = deployed.containers("nginx")
    with closing(http.client.HTTPConnection("127.0.0.1", deployed.port, timeout=10)) as client:
        client.auto_open = 0  # it makes no other connection
        client.connect()
        for is_first in True, False:
            client.request("GET", "/livez")
            assert client.getresponse().read() == b"alive\n"
            if is_first:
                docker("exec", nginx, "nginx", "-e", "stderr", "-p", "/tmp/nginx", "-c", "nginx.conf", "-s", "reload")
                wait_until(lambda: "is shutting down" in docker("top", nginx))


def detail(stack: Stack) -> str:
    """Returns what nginx itself says of an address where there is nothing."""
    return str(httpx.get(f"{stack.url}/readyz").json()["detail"])


def test_nginx_keeps_what_a_deploy_gave_it_until_its_container_is_made_anew(deployed: Stack) -> None:
    (nginx,) = deployed.containers("nginx")
    script = f"sed 's/{NOT_FOUND}/Kept./' /bundle/nginx.conf >next; mv next nginx.conf; touch of-$(hostname)"
    docker("exec", "--workdir", "/tmp/nginx", nginx, "sh", "-euc", script)
    restart(nginx)
    assert detail(deployed) == "Kept."
    deployed.up("--no-deps", "--force-recreate", "nginx")
    assert detail(deployed) == NOT_FOUND


ASGI = "service/asgi.py"


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


FULL = "RUN --mount=type=tmpfs,target=/full,size=1m head -c 2000000 /dev/zero >/full/all\n"


def test_a_disk_that_is_full_replaces_nothing(deployed: Stack) -> None:
    command = ["prlimit", "--fsize=1000", "./run", "deploy"]  # a limit for each file
    project = {**deployed.environment, "COMPOSE_PROJECT_NAME": deployed.project}
    here = subprocess.run(command, cwd=deployed.directory, env=project, capture_output=True, text=True)
    assert (here.returncode, "has no room, is the disk full? Nothing was replaced" in here.stderr) == (1, True)
    assert not (deployed.directory / ".run/room").exists()


@pytest.mark.rehearsal
def test_a_build_whose_disk_is_full_replaces_nothing(deployed: Stack) -> None:
    replicas, noted = deployed.containers("web"), environment(deployed)
    dockerfile = deployed.directory / "deploy/Dockerfile"
    before = dockerfile.read_text()
    change(deployed, "deploy/Dockerfile", FULL)
    try:
        code, written = run(deployed, "deploy")
    finally:
        dockerfile.write_text(before)
        commit(deployed)
    assert (code, "failed to solve" in written) == (1, True), written
    assert "The image was not built (above): nothing was replaced" in written
    assert deployed.containers("web") == replicas
    assert environment(deployed) == noted


def test_two_deploys_at_once_are_refused(deployed: Stack) -> None:
    (deployed.directory / ".run").mkdir(exist_ok=True)
    with (deployed.directory / ".run/deploying").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(deployed, "deploy") == (1, "run: Another deploy is under way here.\n")


@pytest.mark.parametrize("step", ["-- building", pytest.param("-- migrating", marks=pytest.mark.rehearsal)])
def test_ctrl_c_before_a_replica_is_made_replaces_nothing(step: str, deployed: Stack) -> None:
    replicas, noted = deployed.containers("web"), environment(deployed)
    change(deployed, FACTORY, f"# interrupted while {step.removeprefix('-- ')}\n")
    with deployed.begin_task("deploy") as process:
        assert process.stdout
        assert any(step in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) != 0
    assert deployed.containers("web") == replicas
    assert environment(deployed) == noted
    assert deployed.status("/livez") == 200


def test_ctrl_c_leaves_the_replicas_that_were_there(deployed: Stack) -> None:
    replicas = set(deployed.containers("web"))
    change(deployed, FACTORY, "# interrupted\n")
    process = deployed.begin_task("deploy")
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
