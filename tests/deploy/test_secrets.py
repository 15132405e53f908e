"""Secrets' files that were edited or put back by hand are the same secret to all that read them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest

from deploy.make_secrets import NAMES
from harness.compose import docker
from harness.databases import run_mariadb
from harness.processes import container_name, free_port, wait_until
from service.platform.settings import ROOT, load_settings

PASSWORD = "a 's%r@v:\"i\\/`c$e#ü 密🧮"


def make(directory: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "deploy/make_secrets.py"), str(directory), *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    assert make(made).returncode == 0
    return made


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n\n", "\ufeff{}"])
def test_space_around_a_secret_is_taken_away_for_all(
    directory: Path, around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "db_password").write_bytes(around.format(PASSWORD).encode())
    ended = make(directory)
    assert ended.stdout == "secrets made: none, all are there\n"
    assert (directory / "db_password").read_bytes() == PASSWORD.encode()
    assert (directory / "db_password").stat().st_mode & 0o777 == 0o600
    for name, value in {"DB_HOST": "x", "DB_USERNAME": "x", "PYTHON_DOTENV_DISABLED": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SECRET_KEY_FILE", str(directory / "secret_key"))
    monkeypatch.setenv("DB_PASSWORD_FILE", str(directory / "db_password"))
    assert load_settings().database.password == PASSWORD


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"two\nlines", "cannot be printed"), (b"\xff\xfe", "not in UTF-8")],
)
def test_what_is_no_secret_is_named(directory: Path, wrong: bytes, sentence: str) -> None:
    (directory / "secret_key").write_bytes(wrong)
    ended = make(directory)
    assert ended.returncode != 0
    assert sentence in ended.stderr
    assert f"{directory}/secret_key" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_that_was_put_back_has_its_readers_again(directory: Path) -> None:
    readers = [f"{name}={os.getgid()}" for name in NAMES]
    assert make(directory, "--readers", *readers).returncode == 0
    assert {(directory / name).stat().st_mode & 0o777 for name in NAMES} == {0o440}


def test_a_secret_that_an_earlier_version_had_not_is_made_beside_data_and_no_other(
    directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "data/mysql").mkdir(parents=True)
    (directory / "backup_db_password").unlink()
    assert make(directory, "--data", str(tmp_path / "data")).stdout == "secrets made: backup_db_password\n"
    (directory / "db_password").unlink()
    assert "its secrets are gone (db_password)" in make(directory, "--data", str(tmp_path / "data")).stderr


@contextmanager
def mariadb(directory: Path, init_file: Path) -> Iterator[int]:
    """MariaDB's port; it executes the file at its start, as natively."""
    directory.mkdir()
    port = free_port()
    with run_mariadb(directory / "data", port, init_file, log=directory / "log"):
        yield port


@contextmanager
def mysql(init_file: Path) -> Iterator[int]:
    """MySQL's port; it has executed the file at its second start, as in the compose stack."""
    name = container_name()
    try:
        docker(
            *("run", "--detach", "--name", name, "--publish", "127.0.0.1::3306", "--env", "MYSQL_ROOT_PASSWORD=r"),
            *("--tmpfs", "/var/lib/mysql:uid=999,gid=999", "--volume", f"{init_file}:/users.sql:ro"),
            *("mysql:9.7", "mysqld", "--init-file=/users.sql"),
        )
        yield int(docker("port", name, "3306/tcp").split(":")[-1])
    finally:
        docker("rm", "--force", "--volumes", name)


@pytest.mark.parametrize("kind", ["mariadb", pytest.param("mysql", marks=pytest.mark.compose)])
def test_the_database_takes_a_password_and_names_of_any_characters(directory: Path, tmp_path: Path, kind: str) -> None:
    (directory / "db_password").write_text(PASSWORD)
    names = {"DATABASE_NAME": "a_b%`c", "DB_USERNAME": "it's \\me"}
    assert make(directory, **names).returncode == 0
    users = directory / "users.sql"
    users.chmod(0o644)
    directory.chmod(0o755)
    with mariadb(tmp_path / "server", users) if kind == "mariadb" else mysql(users) as port:
        wait_until(lambda: log_in(port, names), limit=120)


def log_in(port: int, names: dict[str, str]) -> bool:
    """Whether the service's user can use its database."""
    try:
        with pymysql.connect(
            host="127.0.0.1",
            port=port,
            user=names["DB_USERNAME"],
            password=PASSWORD.encode().decode("latin-1"),  # PyMySQL's own reading of a password
            database=names["DATABASE_NAME"],
        ):
            return True
    except pymysql.err.OperationalError:
        return False
