"""Quart's, Hypercorn's and Alembic's own commands, started in a copy of the repository with nothing but `.quartenv`."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from harness.databases import Database
from harness.processes import free_port, wait_until
from service.platform.settings import ROOT

pytestmark = pytest.mark.any_database

BIN = Path(sys.executable).parent


@pytest.fixture
def checkout(empty_database: Database, tmp_path: Path) -> Path:
    """A copy of what these commands need, with a `.quartenv`."""
    for name in "service", "migrations":
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in "alembic.ini", "hypercorn.toml":
        shutil.copy(ROOT / name, tmp_path)
    settings = {
        **empty_database.environment,
        "SECRET_KEY": "a secret key of the tests",
        "QUART_APP": "service.asgi:app",
    }
    (tmp_path / ".quartenv").write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
    return tmp_path


@pytest.fixture
def bare_environment(plain_environment: dict[str, str]) -> dict[str, str]:
    """An environment in which `.quartenv` is read, and no setting is."""
    return {name: value for name, value in plain_environment.items() if name != "PYTHON_DOTENV_DISABLED"}


@contextmanager
def serving(command: list[str], checkout: Path, environment: dict[str, str], port: int) -> Iterator[httpx.Client]:
    """Runs the command until the end of the block, and gives a client for what it serves."""
    log = checkout / "log"
    with log.open("w") as file, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        process = subprocess.Popen(
            [BIN / command[0], *command[1:]], cwd=checkout, env=environment, stdout=file, stderr=file
        )
        try:
            wait_until(lambda: answers(client), process=process, log=log)
            yield client
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["alembic", "current"], b"DB_PASSWORD=ab$cd9\n"),
        (["alembic", "current"], b"my-key=1\n"),
        (["alembic", "current"], "A=naïve\n".encode("utf-16")),
        (["quart", "routes"], b"DB_PASSWORD=ab$cd9\n"),
        (["quart", "routes"], b"DB_PASSWORD='ab${cd9}'\n"),
        # In UTF-16 it is a traceback of the `quart` command, which reads the file by itself before anything of ours.
    ],
)
def test_a_quartenv_that_is_malformed_is_said_in_one_sentence(
    checkout: Path, bare_environment: dict[str, str], command: list[str], text: bytes
) -> None:
    (checkout / ".quartenv").write_bytes(text)
    environment = {**bare_environment, "QUART_APP": "service.asgi:app"}
    ended = subprocess.run([BIN / command[0], *command[1:]], cwd=checkout, env=environment, capture_output=True)
    assert ended.returncode != 0
    (line,) = filter(None, ended.stderr.decode().splitlines())
    assert line.startswith(str(checkout / ".quartenv"))
    assert "cd9" not in line


def test_alembic_quart_and_hypercorn_work_with_quartenv_alone(checkout: Path, bare_environment: dict[str, str]) -> None:
    upgraded = subprocess.run(
        [BIN / "alembic", "upgrade", "head"], cwd=checkout, env=bare_environment, capture_output=True, text=True
    )
    assert upgraded.returncode == 0, upgraded.stderr
    port = free_port()
    with serving(["quart", "run", "--port", str(port)], checkout, bare_environment, port) as client:
        assert client.get("/livez").text == "alive\n"
    assert "Traceback" not in (checkout / "log").read_text()
    command = ["hypercorn", "--config", "hypercorn.toml", "--bind", f"127.0.0.1:{port}", "service.asgi:app"]
    with serving(command, checkout, bare_environment, port) as client:
        assert client.get("/livez").text == "alive\n"
    assert "Traceback" not in (checkout / "log").read_text()
    shell = subprocess.run(
        [BIN / "quart", "shell"],
        cwd=checkout,
        env=bare_environment,
        input="from quart import current_app\nprint('database', current_app.settings.database.name)\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "database tally_test_" in shell.stdout, shell.stderr


@pytest.mark.parametrize("command", ["hypercorn", "quart"])
def test_development_reloads_what_changes(
    database: Database, checkout: Path, bare_environment: dict[str, str], command: str
) -> None:
    port = free_port()
    commands = {
        "hypercorn": ["hypercorn", "--config", "hypercorn.toml", "--bind", f"127.0.0.1:{port}", "--reload"],
        "quart": ["quart", "run", "--port", str(port)],
    }
    module = checkout / "service/platform/health.py"
    arguments = commands[command] + (["service.asgi:app"] if command == "hypercorn" else [])
    with serving(arguments, checkout, {**bare_environment, "QUART_ENV": "development"}, port) as client:
        assert client.get("/livez").text == "alive\n"
        module.write_text(module.read_text().replace('_fine("alive")', '_fine("alive again")'))
        os.utime(module)
        wait_until(lambda: is_reloaded(client))


def is_reloaded(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").text == "alive again\n"
    except httpx.TransportError:
        return False


def test_a_key_that_hypercorn_does_not_know_is_said(
    database: Database, checkout: Path, bare_environment: dict[str, str]
) -> None:
    toml = checkout / "hypercorn.toml"
    toml.write_text(f"gracefull_timeout = 30\n{toml.read_text()}")
    port = free_port()
    command = ["hypercorn", "--config", "hypercorn.toml", "--bind", f"127.0.0.1:{port}", "service.asgi:app"]
    with serving(command, checkout, bare_environment, port):
        assert "hypercorn.toml has the key 'gracefull_timeout'" in (checkout / "log").read_text()
