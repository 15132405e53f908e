"""What `./run up` says where it cannot start, and what it takes from the settings."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.make_secrets import NAMES
from harness.databases import Database
from harness.native import Installation, installation
from harness.processes import free_port
from service.platform.settings import ROOT

pytestmark = pytest.mark.native


@pytest.fixture
def fresh(tmp_path: Path, plain_environment: dict[str, str]) -> Iterator[Installation]:
    """A copy in which nothing has run yet."""
    with installation(tmp_path, plain_environment) as made:
        yield made


def refused(made: Installation, **settings: str) -> str:
    """Returns what `./run up` says, which must have failed and left nothing."""
    ended = made.run("./run", "up", **settings)
    assert ended.returncode not in (0, None), ended.stdout
    assert "Traceback" not in ended.stdout
    assert made.processes() == []
    return ended.stdout


@pytest.mark.parametrize("setting", ["HTTP_PORT", "WEB_PORT"])
def test_a_port_in_use_is_named_with_the_setting_that_changes_it(fresh: Installation, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(fresh, **{setting: port})
    assert f"run: Cannot listen on 127.0.0.1, port {port} (Address already in use)" in said
    assert setting in said


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("HTTP_PORT", "0", "run: Cannot listen on 127.0.0.1, port 0 (0 is not a port)"),
        ("HTTP_PORT", "http", "run: Cannot listen on 127.0.0.1, port http"),
        ("HTTP_ADDRESS", "192.0.2.1", "run: Cannot listen on 192.0.2.1, port"),
        ("MAX_BODY_SIZE", "much", "MAX_BODY_SIZE is malformed"),
        ("WORKERS", "two", "run: WORKERS is malformed: see .quartenv.example."),
        ("WORKERS", "-1", "run: WORKERS is malformed: see .quartenv.example."),
        ("TRUSTED_BALANCERS", "10.0.0.0/8; evil", "TRUSTED_BALANCERS is malformed"),
    ],
)
def test_a_malformed_setting_is_named(fresh: Installation, setting: str, value: str, sentence: str) -> None:
    assert sentence in refused(fresh, **{setting: value})


@pytest.mark.parametrize(("setting", "value"), [("WORKERS", "0"), ("SECRET_KEY", "short")])
def test_a_setting_that_the_service_refuses_ends_the_start_at_once(
    fresh: Installation, setting: str, value: str
) -> None:
    said = refused(fresh, **{setting: value})
    assert "hypercorn ended. The end of .run/logs/hypercorn.log:" in said
    assert setting.lower() in said.lower()


def test_what_is_shown_of_a_log_is_of_this_start(fresh: Installation) -> None:
    logs = fresh.directory / ".run/logs"
    logs.mkdir(parents=True)
    (logs / "hypercorn.log").write_text("of an earlier start\n" * 20)
    said = refused(fresh, WORKERS="0")
    assert "of an earlier start" not in said
    assert "it must be from 1 to 256" in said


def test_a_supervisor_that_ends_is_noticed_at_once(fresh: Installation) -> None:
    (fresh.directory / "deploy/native/supervisord.conf").write_text("[supervisord]\nnodaemon = perhaps\n")
    said = refused(fresh)
    assert "run: The supervisor ended unexpectedly" in said
    assert "does not answer" not in said


def test_variables_that_are_meant_for_others_change_nothing(fresh: Installation) -> None:
    fresh.settings.update(
        CDPATH="/tmp:/",
        PYTHONHOME="/nonexistent",
        PYTHONINSPECT="1",
        POSIXLY_CORRECT="1",
        PIP_USER="1",
        GIT_DIR="/nonexistent",
        MYSQL_TCP_PORT="1",
        MYSQL_UNIX_PORT="/nonexistent/socket",
        MYSQL_HOME="/nonexistent",
        TMPDIR="/nonexistent",
        LC_ALL="xx_XX.ISO-8859-9",
        TZ="Asia/Kathmandu",
        PYTHONIOENCODING="latin-1",
        PYTHONWARNINGS="error",
        http_proxy="http://127.0.0.1:1",
        HOME="/nonexistent",
    )
    fresh.up()
    assert httpx.get(f"{fresh.url}/livez").text == "alive\n"
    assert fresh.run("./run", "db", "-N", given="SELECT 'client'").stdout.split()[-1] == "client"
    assert "service" in fresh.run("./run", "shell", given="print(app.name)\n").stdout
    assert fresh.run("./run", "migrate", "current").returncode == 0
    assert fresh.interrupt() == 0


def test_settings_come_from_quartenv_and_the_environment_goes_before_it(fresh: Installation) -> None:
    wanted, unwanted = fresh.settings.pop("HTTP_PORT"), str(free_port())
    (fresh.directory / ".quartenv").write_text(
        f"HTTP_PORT={wanted}\nWEB_PORT={unwanted}\nDATABASE_NAME=other_name\nSECRET_KEY='a \"%s\" $(id) `id` \\ key'\n"
    )
    fresh.settings["DATABASE_NAME"] = "own_name"
    process = fresh.up()
    assert f"it answers on http://127.0.0.1:{wanted} " in fresh.output.read_text()
    assert process.poll() is None
    secret = fresh.run("./run", "shell", given="import os; print('the key is', os.environ['SECRET_KEY'])\n").stdout
    assert 'the key is a "%s" $(id) `id` \\ key' in secret
    assert fresh.run("./run", "db", "-N", given="SELECT DATABASE()").stdout.split() == ["own_name"]
    assert fresh.interrupt() == 0


def test_a_quartenv_that_cannot_be_read_is_named(fresh: Installation) -> None:
    (fresh.directory / ".quartenv").mkdir()
    assert f"{fresh.directory}/.quartenv cannot be read: Is a directory." in refused(fresh)


@pytest.mark.any_database
def test_with_db_host_that_server_is_used_and_no_mariadb_is_made(fresh: Installation, empty_database: Database) -> None:
    fresh.settings.update(empty_database.environment)
    fresh.up()
    assert fresh.answers()
    assert empty_database.execute("SELECT version_num FROM alembic_version")
    assert fresh.run("./run", "db", "-N", given="SELECT DATABASE()").stdout.split() == [empty_database.name]
    assert fresh.program("mariadbd") == []
    assert not (fresh.directory / ".run/mariadb").exists()
    assert fresh.interrupt() == 0


def test_a_database_that_is_not_there_is_named_after_the_limit(fresh: Installation) -> None:
    said = refused(
        fresh,
        DB_HOST="127.0.0.1",
        DB_PORT=str(free_port()),
        DB_USERNAME="tally",
        DB_PASSWORD="a password",
        MIGRATION_WAIT_TIMEOUT="1",
    )
    assert "migrate ended. The end of .run/logs/migrate.log:" in said
    assert "127.0.0.1" in said


def test_a_data_directory_that_is_no_database_is_left_alone_and_named(fresh: Installation) -> None:
    (fresh.directory / ".run/mariadb/data").mkdir(parents=True)
    precious = fresh.directory / ".run/mariadb/data/precious"
    precious.write_text("precious")
    assert ".run/mariadb/data is not empty and holds no database" in refused(fresh)
    assert precious.read_text() == "precious"


def test_a_database_that_does_not_start_is_told_with_the_end_of_its_log(fresh: Installation) -> None:
    (fresh.directory / ".run/mariadb/data/mysql").mkdir(parents=True)
    shutil.copytree(fresh.directory / "tests", fresh.directory / ".run/secrets")
    for name in NAMES:
        (fresh.directory / ".run/secrets" / name).write_text("a secret of the tests")
    said = refused(fresh)
    assert "mariadb ended. The end of .run/logs/mariadb.log:" in said
    assert "[ERROR]" in said


def test_lost_secrets_beside_kept_data_are_told_and_made_anew_only_when_told_to(fresh: Installation) -> None:
    fresh.up()
    assert fresh.interrupt() == 0
    shutil.rmtree(fresh.directory / ".run/secrets")
    assert "./run secrets --renew" in refused(fresh)
    assert fresh.run("./run", "secrets", "--renew").returncode == 0
    fresh.up()
    assert fresh.interrupt() == 0


def test_without_anything_that_runs_a_task_that_looks_at_it_says_how_to_start_it(fresh: Installation) -> None:
    for task in "logs", "quart", "shell", "db", "migrate":
        said = fresh.run("./run", task, COMPOSE_PROJECT_NAME=f"tally-test-{free_port()}")
        assert said.stdout == (
            "run: Nothing runs here: start it with ./run up or docker-compose -f docker-compose.prod.yml up.\n"
        )
        assert said.returncode == 1


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A copy that everybody may read, owned by who runs the tests."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who can become somebody without rights")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        shutil.copy(ROOT / "run", directory)
        shutil.copytree(ROOT / "deploy", Path(directory) / "deploy")
        shutil.copytree(ROOT / "requirements", Path(directory) / "requirements")
        yield Path(directory)


def up_as_nobody(directory: Path, path: str) -> tuple[int, str]:
    """Runs `./run up` there as nobody, with the commands of `path` only; returns exit code and what it said."""
    ended = subprocess.run(
        [shutil.which("setpriv") or "", "--reuid=65534", "--regid=65534", "--clear-groups", "./run", "up"],
        cwd=directory,
        env={"PATH": path},
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stderr


def test_without_the_right_to_install_the_packages_are_named(theirs: Path) -> None:
    """In a folder of commands without a Python, since everything else may be installed here already."""
    commands = theirs / "commands"
    commands.mkdir()
    for name in (
        *("bash", "env", "dirname", "id", "mkdir", "flock", "cmp", "rm", "sed", "cut", "grep", "sort", "true"),
        "apt-get",
    ):
        (commands / name).symlink_to(shutil.which(name) or "")
    (theirs / ".run").mkdir()
    os.chown(theirs / ".run", 65534, 65534)
    code, said = up_as_nobody(theirs, str(commands))
    assert said == (
        "run: No rights to install: have `apt-get install python3-venv` run by an administrator, then run this again.\n"
    )
    assert code == 1


def test_a_folder_of_somebody_else_is_told(theirs: Path) -> None:
    code, said = up_as_nobody(theirs, os.environ["PATH"])
    assert said == (f"run: nobody cannot write to {theirs}/.run: give it to nobody, or run this as its owner.\n")
    assert code == 1
