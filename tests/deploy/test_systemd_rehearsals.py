"""`./run install systemd` and `./run deploy` in a booted Debian, under clients that do not try again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from harness.compose import copy_tree
from harness.processes import wait_until
from harness.systemd import Machine, debian, machine
from service.platform.settings import ROOT
from tests.deploy.deploys import BROKEN, under_load

pytestmark = [pytest.mark.compose, pytest.mark.rehearsal]

MAKE_CERTIFICATE = """
openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj /CN=localhost -addext subjectAltName=DNS:localhost \\
    -keyout key.pem -out chain.pem && chmod 400 key.pem
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("systemd")) as booted:
        install(booted)
        yield booted


def install(machine: Machine) -> None:
    settings = "printf 'HTTP_ADDRESS=0.0.0.0\\nAPI_TOKENS_REQUIRED=false\\n' >.quartenv"
    machine.said("sh", "-c", settings)
    machine.said("./run", "install", "systemd")
    said = machine.said("./run", "deploy")
    assert "serves; it answers on http://127.0.0.1:8080" in said
    machine.said("./run", "backup")
    machine.said("systemctl", "start", "tally-backup-logs")  # which fails before the first backup


@contextmanager
def setting(machine: Machine, line: str) -> Iterator[None]:
    """Has .quartenv hold the line until the end of the block."""
    machine.said("sh", "-c", 'echo "$1" >>.quartenv', "-", line)
    try:
        yield
    finally:
        machine.said("sed", "--in-place", "$d", ".quartenv")


def release(machine: Machine) -> str:
    return machine.said("readlink", "/opt/tally/current").removeprefix("releases/")


def webs(machine: Machine) -> list[str]:
    """Returns the releases whose service systemd has, running or not."""
    listed = machine.said("systemctl", "list-units", "--all", "--plain", "--no-legend", "tally-web@*")
    return [line.split()[0].removeprefix("tally-web@").removesuffix(".service") for line in listed.splitlines()]


def wait_until_well(machine: Machine) -> None:
    with suppress(AssertionError):
        wait_until(lambda: machine.run("./run", "status")[0] == 0, limit=60)
    assert "all is well" in machine.said("./run", "status")  # which a failure then shows


def hit(machine: Machine) -> int:
    return int(httpx.get(machine.url, timeout=30).raise_for_status().text.removeprefix("<h1>Counter: ")[:-5])


def test_installed_again_it_changes_nothing_and_nobody_else_reads_what_is_secret(installed: Machine) -> None:
    again = installed.said("./run", "install", "systemd")
    assert again == "-- done; ./run deploy makes a release of this folder and starts it"
    paths = [
        "/srv/tally/.quartenv",
        f"/opt/tally/releases/{release(installed)}",
        "/opt/tally/current/environment",
        "/var/lib/tally",
        "/run/tally/" + release(installed),
    ]
    assert installed.said("stat", "-c", "%U %G %a", *paths).splitlines() == [
        "root root 600",
        "root tally 750",
        "root tally 640",
        "tally tally 700",
        "tally tally 700",
    ]
    installed.said("systemd-analyze", "verify", "tally.target", f"tally-web@{release(installed)}.service")


def test_a_deploy_is_refused_until_systemd_has_its_units(installed: Machine) -> None:
    unit = "/etc/systemd/system/tally-nginx.service"
    installed.said("sh", "-c", f"echo '# of an earlier version' >>{unit}")
    code, said = installed.run("./run", "deploy")
    assert (code, "./run install systemd installs them. Nothing was replaced." in said) == (1, True), said
    assert f"-- {unit}" in installed.said("./run", "install", "systemd")


def test_a_deploy_and_a_rollback_lose_no_request(installed: Machine) -> None:
    first = release(installed)
    second = installed.commit()
    assert f"{second} serves" in under_load(installed, lambda: installed.said("./run", "deploy"))
    assert (release(installed), webs(installed)) == (second, [second])
    assert f"{first} serves" in under_load(installed, lambda: installed.said("./run", "rollback"))
    assert (release(installed), webs(installed)) == (first, [first])


def test_a_deploy_that_finds_no_room_replaces_nothing_and_leaves_nothing_half_made(installed: Machine) -> None:
    before = release(installed)
    new = installed.commit()
    code, said = installed.run("sh", "-c", "ulimit -f 100; exec ./run deploy")  # which no large file fits into
    assert (code == 0, f"run: The release {new} was not made. Nothing was replaced." in said) == (False, True), said
    assert (release(installed), webs(installed)) == (before, [before])
    assert ".new" not in installed.said("ls", "-A", "/opt/tally/releases").split()


@pytest.mark.parametrize("how", BROKEN)
def test_a_release_that_does_not_serve_gets_no_traffic_and_is_taken_back(how: str, installed: Machine) -> None:
    before = release(installed)
    addition, reason = BROKEN[how]
    installed.said("sh", "-c", 'printf "%s" "$1" >>service/asgi.py', "-", addition)
    broken = installed.commit()
    try:
        code, said = under_load(installed, lambda: installed.run("./run", "deploy"))
    finally:
        installed.said("git", "reset", "--quiet", "--hard", "HEAD~")
    assert code == 1, said
    assert f"The release {broken} does not serve" in said
    assert reason in said
    assert (release(installed), webs(installed)) == (before, [before])
    assert installed.run("test", "-e", f"/opt/tally/releases/{broken}")[0] != 0


def commit_revision(machine: Machine, upgrade: str) -> None:
    head = machine.said("sh", "-c", "ls migrations/versions | grep -o '^[0-9]*' | tail -n 1")
    revision = f"revision = '9999'\ndown_revision = '{head}'\n\n\ndef upgrade():\n    {upgrade}\n"
    revision += "\n\ndef downgrade():\n    pass\n"
    machine.said("sh", "-c", 'printf "%s" "$1" >migrations/versions/9999_new.py', "-", revision)
    machine.commit()


def test_a_rollback_leaves_a_newer_schema_and_no_unit_that_failed(installed: Machine) -> None:
    before = release(installed)
    commit_revision(installed, "pass")
    try:
        installed.said("./run", "deploy")
        assert f"{before} serves" in installed.said("./run", "rollback")
        migration = f"tally-migrate@{before}"
        assert installed.said("systemctl", "show", "--value", "--property=ExecMainStatus", migration) == "65"
        assert installed.said("systemctl", "is-active", migration) == "active"
        installed.said("./run", "rollback")
        installed.said("./run", "migrate", "downgrade", "-1")
    finally:
        installed.said("git", "reset", "--quiet", "--hard", "HEAD~")
    installed.said("./run", "rollback")
    assert release(installed) == before


def test_a_migration_that_fails_replaces_nothing(installed: Machine) -> None:
    before = release(installed)
    commit_revision(installed, "raise ValueError('on purpose')")
    try:
        code, said = installed.run("./run", "deploy")
    finally:
        installed.said("git", "reset", "--quiet", "--hard", "HEAD~")
    assert (code, "on purpose" in said) == (1, True), said
    assert "The migration failed (above): nothing was replaced" in said
    assert (release(installed), webs(installed)) == (before, [before])
    assert "all is well" in installed.said("./run", "status")


def test_a_change_to_another_database_is_refused_and_stops_nothing(installed: Machine) -> None:
    before = release(installed)
    with setting(installed, "DB_HOST=db.example"):
        code, said = installed.run("./run", "deploy")
    assert code == 1
    assert "has the database of DB_HOST, and what serves has the private MariaDB: to change over" in said
    assert release(installed) == before
    assert "all is well" in installed.said("./run", "status")


def test_a_release_that_is_not_whole_and_a_file_of_secrets_are_no_hindrance(installed: Machine) -> None:
    installed.said("mkdir", "--parents", "/opt/tally/releases/.new/x", "/opt/tally/releases/empty")
    installed.said("sh", "-c", "echo HTTP_PORT=1 >.env")
    try:
        installed.commit()
        assert "serves" in installed.said("./run", "deploy")
    finally:
        installed.said("rm", ".env")
    assert installed.run("ls", "/opt/tally/current/.env", "/opt/tally/releases/.new")[0] == 2
    assert "/opt/tally/releases/.new" not in installed.said("cat", "/opt/tally/current/environment")
    installed.said("rm", "-r", "/opt/tally/releases/empty")


def test_nginx_that_did_not_reload_does_so_in_the_next_deploy(installed: Machine) -> None:
    folder = "/run/systemd/system/tally-nginx.service.d"
    no_reload = "[Service]\nExecReload=\nExecReload=/bin/false\n"
    installed.said("mkdir", "--parents", folder)
    installed.said("sh", "-c", f"printf '{no_reload}' >{folder}/x.conf && systemctl daemon-reload")
    with setting(installed, "MAX_BODY_SIZE=2048"):
        try:
            assert "nginx was not reloaded (above)" in installed.run("./run", "deploy")[1]
        finally:
            installed.said("sh", "-c", f"rm {folder}/x.conf && systemctl daemon-reload")
        assert "nginx has its new configuration" in installed.said("./run", "deploy")
        assert "nginx has its new configuration" not in installed.said("./run", "deploy")
    assert "nginx has its new configuration" in installed.said("./run", "deploy")


def test_nginx_is_given_its_new_configuration_and_a_wrong_one_replaces_nothing(installed: Machine) -> None:
    with setting(installed, "MAX_BODY_SIZE=1024"):
        assert "nginx has its new configuration" in installed.said("./run", "deploy")
    assert httpx.post(f"{installed.url}/counters/page/hits", content=bytes(1025)).status_code == 413
    before = release(installed)
    with setting(installed, "RATE_LIMIT=x"):
        code, said = installed.run("./run", "deploy")
    assert (code, "RATE_LIMIT is malformed" in said, "nothing was replaced" in said) == (1, True, True), said
    assert release(installed) == before
    assert "nginx has its new configuration" in installed.said("./run", "rollback")


def test_it_stops_in_order_and_the_count_goes_on_after_the_machine_started_anew(installed: Machine) -> None:
    count = hit(installed)
    try:
        installed.said("systemctl", "stop", "tally.target")
        stopped = installed.run("./run", "status")
    finally:
        subprocess.run(["docker", "restart", installed.container], check=True, capture_output=True)
    installed.boot()
    assert stopped == (1, "run: It is stopped: systemctl start tally.target starts it.\n")
    log = installed.said(
        "journalctl", "--output", "cat", "--identifier", "systemd", "--grep", "^Stopped tally-(nginx|web|mar)"
    )
    in_order = [line.split()[1].partition("@")[0].partition(".")[0] for line in log.splitlines()[-3:]]
    assert in_order == ["tally-nginx", "tally-web", "tally-mariadb"]
    wait_until_well(installed)
    assert hit(installed) == count + 1


def test_the_nightly_backup_can_be_restored(installed: Machine) -> None:
    installed.said("systemctl", "start", "tally-backup.service")
    count = hit(installed)
    installed.said("systemctl", "start", "tally-backup-logs.service")
    hit(installed)
    in_place = ("./run", "restore", "--in-place", "--yes")
    assert installed.run(*in_place) == (1, "run: It runs: stop it first with systemctl stop tally.target.\n")
    try:
        installed.said("systemctl", "stop", "tally.target")
        code, said = installed.run("./run", "backup")
        assert (code, "does not run: start it with systemctl start tally.target." in said) == (1, True), said
        assert "restored: systemctl start tally.target starts it, then ./run backup" in installed.said(*in_place)
    finally:
        installed.said("systemctl", "start", "tally.target")
    wait_until_well(installed)
    assert hit(installed) == count + 1


def test_a_backup_is_restored_in_another_clone_as_the_sentence_says(installed: Machine, tmp_path: Path) -> None:
    code, said = installed.run("./run", "restore", "--beside", "/srv/second")
    task = "BACKUP_DIRECTORY=/var/lib/tally/backups ./run restore --in-place"
    assert (code, task in said) == (1, True), said
    installed.copy(copy_tree(tmp_path / "second"), "second")
    installed.said("ln", "--symbolic", "/opt/tally/current/.venv", ".venv", folder="/srv/second")
    restored = installed.said("sh", "-c", f"./run secrets && {task} --yes", folder="/srv/second")
    assert "restored: ./run up starts it" in restored
    assert installed.said("find", "/var/lib/tally", "-user", "root") == ""


def test_what_systemd_runs_is_not_started_by_up(installed: Machine) -> None:
    code, said = installed.run("./run", "up")
    assert (code, "This folder is for systemd: start it with systemctl start tally.target." in said) == (1, True), said


def test_mariadb_starts_after_a_restore_has_ended(installed: Machine) -> None:
    """`./run restore --in-place` holds this lock."""
    hold = "flock .run/lock sh -c 'touch held; while [ -e held ]; do sleep 0.2; done' >/dev/null 2>&1 &"
    waits = 'grep flock "/proc/$(systemctl show --value --property=ControlPID tally-mariadb)/comm"'
    installed.said("systemctl", "stop", "tally-mariadb")
    installed.said("sh", "-c", hold, folder="/opt/tally")
    try:
        wait_until(lambda: installed.run("test", "-e", "/opt/tally/held")[0] == 0)
        installed.said("systemctl", "start", "--no-block", "tally-mariadb")
        wait_until(lambda: installed.run("sh", "-c", waits)[0] == 0)
    finally:
        installed.said("rm", "/opt/tally/held")
    wait_until_well(installed)


def test_the_tasks_of_run_are_those_of_what_runs(installed: Machine) -> None:
    assert "all is well" in installed.said("./run", "status")
    status = installed.said("./run", "status")
    assert release(installed) in status
    assert "descriptors   hypercorn: " in status
    assert "descriptors   nginx: " in status
    assert "(head)" in installed.said("./run", "migrate", "current")
    assert "1" in installed.said("./run", "db", "--execute", "SELECT 1")
    assert "tokens" in installed.said("./run", "quart", "--help")


def test_status_names_an_unknown_setting_and_a_unit_that_started_again_by_itself(installed: Machine) -> None:
    with setting(installed, "HTTP_PROT=1"):
        code, said = installed.run("./run", "status")
    assert (code, ".quartenv: HTTP_PROT: unknown" in said) == (1, True), said
    installed.said("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "tally-nginx")
    try:
        wait_until(lambda: "restarted 1 times by itself" in installed.run("./run", "status")[1])
        assert 'docs/runbook.md, "It restarts by itself"' in installed.run("./run", "status")[1]
    finally:
        installed.said("systemctl", "reset-failed", "tally-nginx")
    assert "all is well" in installed.said("./run", "status")


def test_prometheus_is_shown_the_service_and_what_the_exporter_finds(installed: Machine) -> None:
    def shown(path: str) -> str:
        return installed.said("curl", "--silent", "--fail", f"http://127.0.0.1:9101{path}")

    with setting(installed, "EXPORTER_PORT=9101"):
        installed.said("./run", "deploy")
        wait_until(lambda: installed.run("curl", "--silent", "http://127.0.0.1:9101")[0] == 0)
        for part in "disks", "backups":
            assert f'exporter_up{{part="{part}"}} 1.0' in shown("/metrics")
        assert "\nservice_ready 1.0\n" in shown("/service")
        assert "tally-exporter.service  active (running)" in installed.said("./run", "status")
    installed.said("./run", "deploy")
    assert installed.run("curl", "--silent", "http://127.0.0.1:9101")[0] != 0
    assert "all is well" in installed.said("./run", "status")


def test_logs_are_those_of_the_units_and_of_nginx(installed: Machine) -> None:
    httpx.get(f"{installed.url}/of-the-log")
    code, said = installed.run("timeout", "5", "./run", "logs", "--lines", "10000")
    assert code == 124
    assert "/of-the-log" in said
    assert "ready for connections" in said


def secret(machine: Machine, name: str) -> str:
    return machine.said("cat", f"/var/lib/tally/secrets/{name}")


def takes(machine: Machine, password: str) -> bool:
    """Whether the database lets the service's user in by that password."""
    login = 'MYSQL_PWD=$1 mariadb --socket=/var/lib/tally/mariadb/data/mariadb.sock --user=tally --execute="DO 0"'
    return machine.run("sh", "-c", login, "-", password)[0] == 0


def test_new_passwords_and_a_new_key_fail_no_request_and_the_former_password_is_refused(installed: Machine) -> None:
    before, key, former = release(installed), secret(installed, "secret_key"), secret(installed, "db_password")

    def rotate_twice() -> tuple[tuple[int, str], list[bool], str]:
        """The first time, a deploy keeps it from replacing the service."""
        first = installed.run("flock", "/opt/tally/deploying", "./run", "rotate")
        both = [takes(installed, password) for password in (former, secret(installed, "db_password"))]
        return first, both, installed.said("./run", "rotate")

    (code, said), both, again = under_load(installed, rotate_twice)
    assert (code, "Another deploy is under way here" in said, both) == (1, True, [True, True]), said
    assert "the passwords and SECRET_KEY are new" in again
    assert [takes(installed, password) for password in (former, secret(installed, "db_password"))] == [False, True]
    assert secret(installed, "secret_key_former") == key
    now = release(installed)
    assert (now.startswith(before.partition(".")[0] + "."), webs(installed)) == (True, [now])
    environment = installed.said("cat", "/opt/tally/current/environment")
    assert f'SECRET_KEY_FALLBACKS_FILE="/opt/tally/releases/{now}/.run/secrets/secret_key_former"' in environment
    assert "all is well" in installed.said("./run", "status")
    installed.said("./run", "backup")  # by its own new password


def test_a_rotation_that_was_stopped_goes_on_where_the_database_took_the_former_password_no_longer(
    installed: Machine,
) -> None:
    installed.run("flock", "/opt/tally/deploying", "./run", "rotate")
    installed.said("systemctl", "restart", "tally-mariadb")
    wait_until(lambda: "error 1045" in installed.run("./run", "status")[1])
    assert '"Not ready"' in installed.run("./run", "status")[1]
    installed.said("./run", "rotate")
    wait_until_well(installed)


def test_a_rollback_after_new_passwords_takes_the_release_before_them(installed: Machine) -> None:
    before = release(installed)
    second = installed.commit()
    installed.said("./run", "deploy")
    installed.said("./run", "rotate")
    now = release(installed)
    assert now.startswith(second + ".")
    assert installed.run("test", "-e", f"/opt/tally/releases/{second}")[0] == 1
    assert f"./run rollback goes back to {before}" in installed.said("./run", "rotate")
    assert f"{before} serves" in installed.said("./run", "rollback")
    assert webs(installed) == [before]


def test_all_passwords_are_made_anew_while_it_is_stopped(installed: Machine) -> None:
    sentence = "run: It runs: stop it first with systemctl stop tally.target.\n"
    assert installed.run("./run", "secrets", "--renew") == (1, sentence)
    count = hit(installed)
    try:
        installed.said("systemctl", "stop", "tally.target")
        installed.said("./run", "secrets", "--renew")
    finally:
        installed.said("systemctl", "start", "tally.target")
    wait_until_well(installed)
    assert hit(installed) == count + 1


def test_the_access_log_is_rotated_at_100_mb_and_loses_no_line(installed: Machine) -> None:
    httpx.get(f"{installed.url}/before")
    log = "/var/log/tally/access.log"
    installed.said("systemctl", "start", "tally-logrotate")
    assert installed.run("test", "-e", f"{log}.1")[0] == 1
    installed.said("truncate", "--size=+101M", log)
    installed.said("systemctl", "start", "tally-logrotate")
    httpx.get(f"{installed.url}/after")
    wait_until(lambda: "/after" in installed.run("cat", log)[1])
    wait_until(lambda: installed.run("grep", "--text", "--quiet", "/before", f"{log}.1")[0] == 0)


def test_tls_is_turned_on_with_a_certificate_that_root_alone_can_read(installed: Machine) -> None:
    installed.said("sh", "-c", MAKE_CERTIFICATE)
    installed.said("./run", "certificate", "chain.pem", "key.pem")
    with setting(installed, "HTTPS_PORT=443"):
        assert "answers on https://127.0.0.1:443" in installed.said("./run", "deploy")
    assert installed.said("curl", "--silent", "--insecure", "https://localhost/livez") == "alive"
    assert "nginx loads it now" in installed.said("./run", "certificate", "chain.pem", "key.pem")
    installed.said("./run", "rollback")


def test_an_application_of_ones_own_runs_beside_it_and_is_removed(installed: Machine, tmp_path: Path) -> None:
    own = tmp_path / "my-app"
    subprocess.run([sys.executable, "deploy/new_application.py", own], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["rm", "-rf", own / ".git"], check=True)
    installed.copy(own, "my-app")
    folder = "/srv/my-app"
    installed.said("sh", "-c", "echo HTTP_PORT=8081 >.quartenv", folder=folder)
    installed.said("./run", "install", "systemd", folder=folder)
    assert "it answers on http://127.0.0.1:8081" in installed.said("./run", "deploy", folder=folder)
    installed.said("./run", "backup", folder=folder)
    installed.said("systemctl", "start", "my_app-backup-logs")
    assert "all is well" in installed.said("./run", "status", folder=folder)
    assert "removed; the data" in installed.said("./run", "install", "systemd", "--remove", folder=folder)
    assert installed.said("sh", "-c", "ls -d /etc/systemd/system/my_app* /opt/my_app 2>/dev/null; ls /var/lib/my_app")
    assert installed.run("sh", "-c", "ls -d /etc/systemd/system/my_app* /opt/my_app")[0] != 0
    assert hit(installed) > 0


def test_debian_12_deploys_goes_back_and_changes_passwords_and_no_request_fails(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("needs root and debootstrap")
    with debian("bookworm", tmp_path / "root") as image, machine(tmp_path, image) as booted:
        install(booted)
        first = release(booted)
        booted.commit()
        for task in "deploy", "rollback", "rotate":
            under_load(booted, partial(booted.said, "./run", task))
        assert release(booted).startswith(first + ".")
        assert "all is well" in booted.said("./run", "status")
        programs = "nginx -v 2>&1; mariadbd --version; /opt/tally/current/.venv/bin/python --version"
        versions = booted.said("sh", "-c", programs)
        print(versions)  # `./run rehearse` shows it
        assert "Python 3.11" in versions
