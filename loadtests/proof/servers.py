"""The servers of a comparison, on free ports of 127.0.0.1: a durable MariaDB, databases on it, applications."""

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.databases import Database, DatabaseServer, new_database, private_mariadb
from harness.processes import hypercorn, is_ready, wait_until
from service.platform.settings import ROOT


def say(text: str) -> None:
    """Prints progress to standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def database_server(under: Sequence[str] = ()) -> Iterator[tuple[DatabaseServer, Path]]:
    """Starts a private, fully durable MariaDB; gives it and an empty folder, which both go at the end of the block.

    `under`: the command that it is run by, as `private_mariadb` has it.
    """
    with tempfile.TemporaryDirectory(prefix="tally-load-") as name:
        folder = Path(name)
        (folder / "database").mkdir()
        say("starting a private MariaDB")
        with private_mariadb(folder / "database", None, "--max-connections=3000", under=under) as server:
            yield server, folder


@contextmanager
def migrated_database(server: DatabaseServer) -> Iterator[Database]:
    """Makes a database with the newest schema, for the length of the block."""
    with new_database(server) as database:
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        environment = environment_of(database, workers=1)
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        yield database


def environment_of(database: Database, *, workers: int) -> dict[str, str]:
    """Returns the environment of an application on that database."""
    own = {"SECRET_KEY": uuid.uuid4().hex, "WORKERS": str(workers), "PYTHON_DOTENV_DISABLED": "1"}
    return {**os.environ, **database.environment, **own}


@contextmanager
def application(
    app: str,
    environment: dict[str, str],
    log: Path,
    *,
    workers: int,
    slow: float = 0.0,
    pool: int | None = None,
    has_readiness: bool = True,
) -> Iterator[str]:
    """Runs an application in Hypercorn until the end of the block; gives its address.

    `slow` and `pool` become its SLOW_DATABASE (seconds) and POOL_SIZE. With readiness, waits until it is ready.
    """
    own = {**environment, "SLOW_DATABASE": str(slow)}
    if pool is not None:
        own["POOL_SIZE"] = str(pool)
    with hypercorn(own, log, app=app, workers=workers) as running:
        if has_readiness:
            wait_until(lambda: is_ready(running), log=log)
        yield running.url
