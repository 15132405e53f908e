import re
import socket
import subprocess
import tomllib
from typing import Any

import httpx
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from deploy.make_secrets import NAMES
from harness.compose import Stack, docker, inspect
from harness.processes import wait_until
from service.platform import lifecycle
from service.platform.jobs import DRAIN
from service.platform.settings import ROOT

pytestmark = pytest.mark.compose

RUNNING = ("mysql", "web", "nginx")
ONE_SHOTS = ("secrets", "migrate")
SECRETS = (*NAMES, "users.sql")


def shell(stack: Stack, service: str, script: str) -> str:
    """Runs a script in a container of the service, in one of its own where it is a one-shot; returns its output."""
    if service in RUNNING:
        return docker("exec", stack.containers(service)[0], "sh", "-c", script, check=False)
    command = ("run", "--rm", "--no-deps", "--entrypoint", "sh", service, "-c", script)
    return stack.compose(*command, check=False).stdout


def test_one_command_on_a_fresh_clone_brings_all_up(stack: Stack) -> None:
    assert [len(stack.containers(service)) for service in RUNNING] == [1, 2, 1]
    for service in RUNNING:
        for container in stack.containers(service):
            assert inspect(container)["State"]["Health"]["Status"] == "healthy"
    for service in ONE_SHOTS:
        (container,) = stack.containers(service)
        assert inspect(container)["State"]["Status"] == "exited"
        assert inspect(container)["State"]["ExitCode"] == 0


def test_the_replicas_share_the_processors_however_many_they_are(stack: Stack) -> None:
    processors = int(docker("exec", stack.containers("web")[0], "nproc"))
    fit = 5  # into mem_limit

    def workers() -> list[int]:
        return [docker("top", web).count("--multiprocessing-fork") for web in stack.containers("web")]

    assert workers() == [min(-(-processors // 2), fit)] * 2
    try:
        stack.over(WEB_REPLICAS="4").up()
        assert workers() == [min(-(-processors // 4), fit)] * 4
        assert stack.compose("logs", "web").stdout.count("processors for 4 replicas") == 4
    finally:
        stack.up()


def test_status_says_what_runs_and_that_there_is_no_backup(stack: Stack) -> None:
    said = stack.task("status", check=False).stdout
    for line in (
        r"web +Up .* \(healthy\), 0\.1\.0",
        r"disk +\d+% full",
        r"descriptors +hypercorn: \d+ of \d+",
        r"descriptors +nginx: \d+ of \d+",
        r"memory +mysql: \d+ of 1024 MiB",
        r"memory +web: \d+ of 512 MiB, WORKERS=\d of 5 that fit",
        r"version +0\.1\.0",
        r"database +9\..* schema \w+",
    ):
        assert re.search(rf"^{line}", said, re.MULTILINE), said
    # Other tests of the stack may have made a backup, and killed what is called wrong for an hour.
    assert set(re.findall(r"^(\w+) .*\n +->", said, re.MULTILINE)) <= {"backup", "web", "nginx", "mysql"}, said
    if not docker("exec", stack.containers("mysql")[0], "ls", "/backups").split():
        assert "backup        never\n          ->  ./run backup, " in said


def test_status_says_what_is_wrong(stack: Stack) -> None:
    killed, small = stack.containers("web")
    (nginx,) = stack.containers("nginx")
    own = stack.directory / ".quartenv"
    docker("exec", killed, "sh", "-c", "kill -9 $(grep -l spawn_mai[n] /proc/[0-9]*/cmdline | cut -d/ -f3)")
    docker("kill", nginx)
    docker("update", "--memory", "130m", "--memory-swap", "130m", small)
    try:
        wait_until(lambda: inspect(killed)["RestartCount"] > 0 and inspect(killed)["State"]["Running"])
        own.write_text("LOG_LEVEL=INFO\nDB_POOLSIZE=3\n")
        with socket.create_server(("127.0.0.1", stack.port)):
            status = stack.task("status", check=False)
    finally:
        own.unlink(missing_ok=True)
        docker("update", "--memory", "512m", "--memory-swap", "512m", small)
        docker("start", nginx)
        stack.wait_until_ready()
    assert status.returncode == 1
    for line, remedy in (
        ("nginx +Exited .*", "./run logs nginx"),
        (f"port +something else listens on 127.0.0.1, port {stack.port}", "end it"),
        ("web .* restarted \\d+ times by itself", ""),
        ("memory +web: \\d+ of 130 MiB, WORKERS=\\d of 0 that fit", "raise mem_limit, or lower WORKERS"),
        ("settings +.quartenv: DB_POOLSIZE: unknown, and so without effect", ".quartenv.example"),
    ):
        assert re.search(rf"^{line}\n +->  {re.escape(remedy)}", status.stdout, re.MULTILINE), status.stdout


def test_it_answers_through_nginx_on_127_0_0_1_and_nothing_else_is_published(stack: Stack) -> None:
    answer = httpx.get(f"{stack.url}/livez")
    assert (answer.status_code, answer.text) == (200, "alive\n")
    assert answer.headers["x-request-id"]
    assert stack.status("/") < 500
    assert stack.status("/readyz") == 404
    for service in (*RUNNING, *ONE_SHOTS):
        for container in stack.containers(service):
            published = {
                port: [(binding["HostIp"], binding["HostPort"]) for binding in bindings]
                for port, bindings in inspect(container)["NetworkSettings"]["Ports"].items()
                if bindings
            }
            assert published == ({"8080/tcp": [("127.0.0.1", str(stack.port))]} if service == "nginx" else {})


def test_each_network_holds_only_those_who_need_each_other(stack: Stack) -> None:
    expected = {
        "mysql": {"database"},
        "migrate": {"database"},
        "web": {"front", "database"},
        "nginx": {"front"},
        "secrets": {"none"},
    }
    for service, networks in expected.items():
        for container in stack.containers(service):
            found = inspect(container)["NetworkSettings"]["Networks"]
            assert {name.removeprefix(f"{stack.project}_") for name in found} == networks
    assert docker("network", "inspect", "--format", "{{.Internal}}", f"{stack.project}_database") == "true\n"
    reach = "timeout 3 bash -c '</dev/tcp/mysql/3306' 2>&1 && echo reached"
    assert "reached" not in shell(stack, "nginx", reach)
    assert "reached" in shell(stack, "web", reach)


@pytest.mark.parametrize("service", [*RUNNING, *ONE_SHOTS])
def test_every_container_may_do_nothing_but_its_work(service: str, stack: Stack) -> None:
    for container in stack.containers(service):
        found = inspect(container)
        host: dict[str, Any] = found["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert 0 < host["Memory"] <= 2**30
        assert 0 < host["PidsLimit"] <= 500
        assert host["Init"] is True
        assert host["LogConfig"]["Type"] == "local"
        assert {"max-size", "max-file"} <= set(host["LogConfig"]["Config"])
        assert host["RestartPolicy"]["Name"] == ("unless-stopped" if service in RUNNING else "no")
        for options in host.get("Tmpfs", {}).values():
            assert {"noexec", "nosuid", "nodev"} < set(options.split(","))
            assert "size=" in options
        writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
        expected = {"mysql": {"/var/lib/mysql", "/backups"}, "secrets": {"/run/secrets"}, "nginx": {"/tmp"}}
        assert writable == expected.get(service, set())


@pytest.mark.parametrize("service", [*RUNNING, *ONE_SHOTS])
def test_no_process_is_root_or_has_a_capability_or_can_change_the_image(service: str, stack: Stack) -> None:
    expected = {"mysql": 999, "web": 10001, "nginx": 101, "secrets": 10000, "migrate": 10002}
    script = "grep -hE '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/[0-9]*/status; touch /etc/x /srv/x 2>&1; echo >/tmp/x"
    lines = shell(stack, service, script).splitlines()
    for line in lines[:-2]:
        name, *values = line.split()
        wanted = {"Uid:": str(expected[service]), "NoNewPrivs:": "1"}.get(name, "0" * 16)
        assert set(values) == {wanted}
    assert all("Read-only" in line or "cannot touch" in line for line in lines[-2:])


def test_each_container_can_read_only_the_secrets_that_it_needs(stack: Stack) -> None:
    expected = {
        "secrets": set(SECRETS),
        "mysql": {"mysql_root_password", "users.sql", "db_password"},
        "migrate": {"migration_db_password"},
        "web": {"secret_key", "secret_key_former", "db_password"},
        "nginx": set(),
        "backup": {"backup_db_password"},
    }
    script = "for secret in " + " ".join(SECRETS) + '; do cat /run/secrets/$secret >/tmp/x && echo "$secret"; done'
    assert {service: set(shell(stack, service, script).split()) for service in expected} == expected


def test_no_secret_is_in_an_environment_a_command_line_or_a_log(stack: Stack) -> None:
    readers = {"secret_key": "web", "db_password": "web", "migration_db_password": "migrate"}
    values = [shell(stack, service, f"cat /run/secrets/{secret}") for secret, service in readers.items()]
    values.append(shell(stack, "mysql", "cat /run/secrets/mysql_root_password"))
    assert all(len(value) == 64 for value in values)
    assert len(set(values)) == 4
    for service in (*RUNNING, *ONE_SHOTS):
        for container in stack.containers(service):
            logs = subprocess.run(["docker", "logs", container], capture_output=True, text=True)
            seen = docker("inspect", container) + logs.stdout + logs.stderr + docker("top", container, check=False)
            assert not [value for value in values if value in seen]


def test_a_container_is_given_the_time_that_its_end_takes(stack: Stack) -> None:
    hypercorn = tomllib.loads((ROOT / "hypercorn.toml").read_text())
    (nginx,), (mysql,) = stack.containers("nginx"), stack.containers("mysql")
    delay, background_tasks = 5, 5 + lifecycle.LONGEST_QUEUE
    for web in stack.containers("web"):
        assert f"SHUTDOWN_DELAY={delay}" in inspect(web)["Config"]["Env"]
        assert inspect(web)["Config"]["StopTimeout"] > delay + hypercorn["graceful_timeout"] + background_tasks + DRAIN
    assert "keepalive_timeout 4s;" in docker("exec", nginx, "cat", "/tmp/nginx/rendered/http.conf")
    assert "worker_shutdown_timeout 30s;" in (ROOT / "nginx.conf").read_text()
    assert inspect(nginx)["Config"]["StopTimeout"] > 30
    assert inspect(mysql)["Config"]["StopTimeout"] >= 60


def test_mysql_is_durable_by_its_own_file_and_its_users_may_do_only_their_work(stack: Stack) -> None:
    variables = dict(row for row in stack.mysql("SHOW GLOBAL VARIABLES"))
    assert variables["version"].startswith("9.7.")
    assert variables["log_bin"] == "ON"
    assert variables["log_bin_basename"] == "/var/lib/mysql/binlog"
    assert variables["sync_binlog"] == variables["innodb_flush_log_at_trx_commit"] == "1"
    assert variables["character_set_server"] == "utf8mb4"
    assert variables["collation_server"] == "utf8mb4_unicode_ci"
    assert variables["max_connections"] == "300"  # the file's, not the default
    rows = "SELECT GROUP_CONCAT(DISTINCT privilege_type) FROM information_schema.schema_privileges WHERE grantee LIKE "
    service = stack.mysql(rows + "'''tally''@%'")[0][0]
    assert set(service.split(",")) == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    assert "CREATE" in stack.mysql(rows + "'''tally_migration''@%'")[0][0]
    everywhere = "SELECT DISTINCT privilege_type FROM information_schema.user_privileges WHERE grantee LIKE "
    # To see which transaction is in its way, the migration's user needs PROCESS.
    for user, privilege in ("tally", "USAGE"), ("tally_migration", "PROCESS"):
        assert stack.mysql(everywhere + f"'''{user}''@%'") == [[privilege]]
    backup = {privilege for (privilege,) in stack.mysql(everywhere + "'''tally_backup''@%'")}
    assert backup == {"BACKUP_ADMIN", "BINLOG_ADMIN", "RELOAD", "REPLICATION CLIENT"}
    assert stack.mysql(rows + "'''tally_backup''@%'") == [["NULL"]]


def test_the_migration_job_takes_any_command_of_alembics(stack: Stack) -> None:
    (head,) = ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_heads()
    assert stack.compose("run", "--rm", "migrate", "current").stdout.strip() == f"{head} (head)"
    assert "No new upgrade operations" in stack.compose("run", "--rm", "migrate", "check").stdout
    stack.compose("run", "--rm", "migrate")


def test_one_image_serves_all_jobs_and_its_default_tag_is_the_projects_version(stack: Stack) -> None:
    images = {stack.configuration()["services"][service]["image"] for service in ("web", "migrate", "secrets")}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert images == {f"{stack.environment['IMAGE_NAME']}:{version}"}
    other = stack.over(IMAGE_NAME="registry.example/other", IMAGE_TAG="7").configuration()["services"]
    assert other["web"]["image"] == other["secrets"]["image"] == "registry.example/other:7"
