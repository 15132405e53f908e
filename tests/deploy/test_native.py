"""An installation by `./run up` while it runs: what it is made of, what brings it back, the tasks that look at it."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pymysql
import pytest

from harness.compose import copy_tree
from harness.native import Installation, installation
from harness.processes import for_each, free_port, wait_until
from service.platform.settings import ROOT

pytestmark = pytest.mark.native

ITS_PROGRAMS = {"mariadb", "hypercorn", "nginx"}
"""Those that other tests may have killed, which is called wrong for an hour."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> Iterator[Installation]:
    """An installation that answers; each test leaves it so."""
    folder, port = tmp_path_factory.mktemp("a folder") / "with spaces", free_port()
    with installation(folder, plain_environment, WORKERS="auto", EXPORTER_PORT=str(port)) as made:
        made.up()
        yield made


def test_it_answers_where_it_says(running: Installation) -> None:
    said = running.output.read_text()
    assert f"it answers on {running.url} " in said
    assert said.count("-- 1 of 3: the database starts and is migrated\n") == 1  # and what is waited for before that
    assert running.answers()


def test_it_has_a_worker_for_each_processor_that_it_may_use(running: Installation) -> None:
    chosen = subprocess.run([ROOT / "deploy/processors"], capture_output=True, text=True, check=True).stdout.strip()
    assert f"-- WORKERS=auto: {chosen}\n" in running.output.read_text()
    wait_until(lambda: len(running.program("spawn_main")) == int(chosen.split()[0]))
    noted = (running.directory / ".run/environment").read_text().splitlines()
    assert f"export WORKERS={chosen.split()[0]}" in noted, "the service does not know how many workers there are"


def test_status_says_that_all_is_well_but_for_an_old_backup_and_unknown_settings(running: Installation) -> None:
    old = running.directory / ".run/backups/20260101T031700.000000Z"
    old.mkdir(parents=True)
    (old / "backup.json").touch()
    own = running.directory / ".quartenv"
    own.write_text("LOG_LEVEL=INFO\nDB_POOLSIZE=3\n")
    try:
        status = running.run("./run", "status")
    finally:
        own.unlink()
        (old / "backup.json").unlink()
        old.rmdir()
    assert status.returncode == 1
    for line in (
        f"address +{running.url}",
        r"hypercorn +running uptime",
        r"descriptors +hypercorn: \d+ of \d+",
        r"descriptors +nginx: \d+ of \d+",
        r"memory +\d+ workers may need \d+ MiB",
        r"disk +\d+% full",
        r"database +.*MariaDB.* schema \w+",
    ):
        assert re.search(f"^{line}", status.stdout, re.MULTILINE), status.stdout
    wrong = set(re.findall(r"^(\w+) .*\n +->", status.stdout, re.MULTILINE))
    assert {"settings", "backup"} <= wrong <= {"settings", "backup", *ITS_PROGRAMS}, status.stdout
    assert "settings      .quartenv: DB_POOLSIZE: unknown" in status.stdout
    assert re.search(r"^backup +\d+ days ago\n +->  \./run backup; ", status.stdout, re.MULTILINE), status.stdout
    assert "backup        never\n          ->  ./run backup, " in running.run("./run", "status").stdout


def test_prometheus_is_shown_the_service_and_what_the_exporter_finds_and_clients_are_not(running: Installation) -> None:
    def shown(port: str) -> str:
        return httpx.get(f"http://127.0.0.1:{running.settings[port]}/metrics").text

    assert "service_ready 1.0\n" in shown("WEB_PORT")
    assert httpx.get(f"{running.url}/metrics").status_code == 404
    found = shown("EXPORTER_PORT")
    for line in 'exporter_up{part="disks"} 1.0', 'exporter_up{part="backups"} 1.0', 'disk_free_bytes{disk="data"} ':
        assert f"\n{line}" in found, found


def test_nothing_but_nginx_listens_beyond_this_machine_and_all_that_it_writes_is_closed_to_others(
    running: Installation,
) -> None:
    addresses = {
        connection.laddr.ip
        for connections in for_each(running.processes(), lambda process: process.net_connections("tcp"))
        for connection in connections
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}
    assert (running.directory / ".run").stat().st_mode & 0o077 == 0


def test_the_embedded_mariadb_makes_a_commit_durable_before_it_is_seen(running: Installation) -> None:
    answer = running.run("./run", "db", "-N", given="SELECT @@log_bin, @@sync_binlog, @@innodb_flush_log_at_trx_commit")
    assert answer.stdout.split() == ["1", "1", "1"]


def test_no_account_of_the_embedded_mariadb_is_without_a_password(running: Installation) -> None:
    port = int(
        subprocess.run(
            [". .run/environment && echo $DB_PORT"],
            shell=True,
            cwd=running.directory,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    for user in "root", "tally", "":
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(host="127.0.0.1", port=port, user=user)
    root = (running.directory / ".run/secrets/mysql_root_password").read_text()
    connection = pymysql.connect(host="127.0.0.1", port=port, user="root", password=root)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT user, host FROM mysql.user WHERE password = ''")
        assert cursor.fetchall() == (("mariadb.sys", "localhost"),)  # whom MariaDB itself keeps, locked


def test_a_second_up_in_the_same_folder_is_refused(running: Installation) -> None:
    second = running.run("./run", "up", HTTP_PORT=str(free_port()), WEB_PORT=str(free_port()))
    assert (second.returncode, second.stdout) == (
        1,
        "run: ./run up runs already in this folder, or ./run restore; ./run logs shows what it does.\n",
    )
    assert running.answers()


@pytest.mark.parametrize("part", ["spawn_main", ".venv/bin/hypercorn", "mariadbd", "nginx: master"])
def test_what_is_killed_is_started_again(running: Installation, part: str) -> None:
    before = running.program(part)
    assert before
    before[0].kill()
    wait_until(lambda: not before[0].is_running())
    wait_until(lambda: set(running.program(part)) - set(before))
    wait_until(lambda: running.answers() and ready(running))
    program = "hypercorn" if part == "spawn_main" else part.rpartition("/")[2].split(":")[0].removesuffix("d")
    status = running.run("./run", "status")
    assert re.search(rf"^{program} .* restarted \d+ times by itself\n +->", status.stdout, re.MULTILINE), status.stdout


def ready(running: Installation) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{running.settings['WEB_PORT']}/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_shell_is_a_python_shell_in_the_application(running: Installation) -> None:
    shell = running.run("./run", "shell", given="print('it is', app.name)\n")
    assert shell.returncode == 0, shell.stdout
    assert "it is service" in shell.stdout


def test_quart_runs_a_command_of_the_applications_with_the_settings_of_what_runs(running: Installation) -> None:
    made = running.run("./run", "quart", "tokens", "make", "someone", "--scope", "count")
    assert made.returncode == 0, made.stdout
    assert re.search(r"^someone +count +valid ", running.run("./run", "quart", "tokens", "list").stdout, re.MULTILINE)
    listed = running.run("./run", "quart", "--help").stdout
    assert re.findall(r"^  (routes|tokens) ", listed, re.MULTILINE) == ["routes", "tokens"], listed


def test_db_is_a_client_of_the_database_as_the_services_user(running: Installation) -> None:
    client = running.run("./run", "db", "-N", given="SELECT DATABASE(), CURRENT_USER()")
    assert client.stdout.split() == ["tally", "tally@%"]


def test_migrate_is_alembic_on_this_database(running: Installation) -> None:
    assert "(head)" in running.run("./run", "migrate", "current").stdout


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["./run", "logs"], '"method":"GET","uri":"/livez/followed"'),
        (["script", "--quiet", "--flush", "--command", "./run logs", "/dev/null"], "GET /livez/followed 404  "),
    ],
)
def test_logs_follows_every_programs_log_on_a_terminal_for_people(
    command: list[str], line: str, running: Installation, tmp_path: Path
) -> None:
    printed = tmp_path / "logs"
    with printed.open("w") as file:
        logs = subprocess.Popen(
            command, cwd=running.directory, env=dict(running.environment), stdin=subprocess.DEVNULL, stdout=file
        )
    try:
        headings = {f"==> .run/logs/{name}.log <==" for name in ("mariadb", "migrate", "hypercorn", "nginx")}
        wait_until(lambda: headings <= set(printed.read_text().splitlines()), process=logs)
        httpx.get(f"{running.url}/livez/followed?not-to-be-seen")
        wait_until(lambda: line in printed.read_text(), process=logs)
        assert "not-to-be-seen" not in printed.read_text()
    finally:
        logs.terminate()
        logs.wait()


def test_a_changed_file_is_loaded_in_development(tmp_path: Path, plain_environment: dict[str, str]) -> None:
    with installation(tmp_path, plain_environment, QUART_ENV="development") as made:
        made.up()
        workers = made.program("spawn_main")
        os.utime(made.directory / "service/platform/app.py")
        wait_until(lambda: set(made.program("spawn_main")) - set(workers))
        wait_until(made.answers)
        made.started[-1].send_signal(signal.SIGTERM)
        assert made.started[-1].wait(60) == 0


def test_a_restore_that_cannot_be_put_in_place_leaves_what_there_is_and_one_beside_is_named_from_where_it_is_called(
    running: Installation, tmp_path: Path
) -> None:
    assert running.run("./run", "backup").returncode == 0
    assert running.interrupt() == 0
    database = running.directory / ".run/mariadb"
    before = (database / "data").stat().st_ino, {path.name for path in database.iterdir()}
    failing = tmp_path / "failing"
    failing.mkdir()
    (failing / "mv").write_text('#!/bin/sh\ncase $* in *restored*) exit 1 ;; esac\nexec /bin/mv "$@"\n')
    (failing / "mv").chmod(0o755)
    path = f"{failing}:{running.environment['PATH']}"
    ended = running.run("./run", "restore", "--in-place", "--yes", PATH=path)
    assert (ended.returncode, "could not be replaced (above): it is as it was" in ended.stdout) == (1, True)
    assert ((database / "data").stat().st_ino, {path.name for path in database.iterdir()}) == before
    other = copy_tree(tmp_path / "other")
    for sentence in "restored: ./run up in ", "has data already: name another clone":
        command = [str(running.directory / "run"), "restore", "--beside", other.name]
        beside = subprocess.run(command, cwd=tmp_path, env=running.environment, capture_output=True, text=True)
        assert sentence in beside.stdout + beside.stderr
    assert (other / ".run/mariadb/data/ibdata1").exists()
    running.up()


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("deploy", "takes code and settings when it starts: stop it (Ctrl-C), and start it again."),
        ("rollback", "takes code and settings when it starts: stop it (Ctrl-C), and start it again."),
        ("secrets --renew", "It runs: stop it first with Ctrl-C."),
        ("rotate", "For ./run up: stop it (Ctrl-C), ./run secrets --renew, and start it again."),
    ],
)
def test_what_is_not_for_what_runs_is_told(task: str, sentence: str, running: Installation) -> None:
    ended = running.run("./run", *task.split())
    assert (ended.returncode, sentence in ended.stdout) == (1, True), ended.stdout


def test_where_docker_is_missing_backups_are_those_of_up(running: Installation, tmp_path: Path) -> None:
    programs = {path.name: path for folder in ("/usr/sbin", "/usr/bin") for path in Path(folder).iterdir()}
    for name, program in programs.items():
        if not name.startswith("docker"):
            (tmp_path / name).symlink_to(program)
    fresh = copy_tree(tmp_path / "fresh")
    (fresh / ".venv").symlink_to(ROOT / ".venv")
    bare = {**running.environment, "PATH": str(tmp_path)}
    for task, sentence in ("backup", "start it with ./run up"), ("restore", "Say --in-place, or --beside"):
        ended = subprocess.run(["./run", task], cwd=fresh, env=bare, capture_output=True, text=True)
        assert (ended.returncode, sentence in ended.stderr) == (1, True), ended.stderr
