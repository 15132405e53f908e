"""The servers of a benchmark, on free ports of 127.0.0.1, with a private, fully durable MariaDB; idle until asked."""

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.receipts import fill
from benchmarks.suites import SERVERS, Server
from harness.databases import Database, DatabaseServer, new_database, private_mariadb
from harness.environments import serving
from harness.processes import Hypercorn, free_port, hypercorn, is_ready, stop, wait_until
from service.platform.settings import ROOT

FIXED = """pid nginx.pid; error_log stderr; daemon off; worker_processes auto;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000; default_type text/html;
    server {{ listen 127.0.0.1:{port} backlog=4096; return 200 "<h1>Counter: 1</h1>"; }}
}}
"""


def say(text: str) -> None:
    """Tells whoever waits what goes on."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def servers(names: Collection[str], *, workers: int, receipts: int, notes: list[str]) -> Iterator[dict[str, str]]:
    """Starts the servers of SERVERS that are named; the block gets the address of each. `notes` gets what was found."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-bench-")))
        (folder / "database").mkdir()
        say("starting a private MariaDB")
        mariadb = stack.enter_context(private_mariadb(folder / "database", None, "--max-connections=3000"))
        addresses: dict[str, str] = {}
        behind = {server.behind for server in map(SERVERS.__getitem__, names) if server.behind}
        for name in sorted({*names, *behind}, key=lambda name: SERVERS[name].behind is not None):
            server = SERVERS[name]
            say(f"starting {name}")
            if server.fixed or server.behind is not None:
                to = None if server.behind is None else addresses[server.behind]
                addresses[name] = stack.enter_context(nginx(folder / f"nginx-{name}", to))
                continue
            # One each: what still waits of a run is then no one else's load.
            database = stack.enter_context(migrated(mariadb, workers))
            if server.full:
                notes.append(note_on_filling(database, receipts))
            environment = settings(database, server.workers or workers)
            if server.delay is not None:
                environment["DB_PORT"] = str(stack.enter_context(delayed(mariadb.port, server.delay)))
            log = folder / f"{name}.log"
            addresses[name] = stack.enter_context(one(server, environment, log, server.workers or workers))
        yield addresses


@contextmanager
def one(server: Server, environment: dict[str, str], log: Path, workers: int) -> Iterator[str]:
    """Starts a server and waits until it is ready."""
    if server.candidate is not None:
        with serving(
            server.candidate, environment, workers=workers, log=log, pool=server.pool, slow=server.slow
        ) as url:
            yield url
        return
    own = {**environment, "SLOW_DATABASE": str(server.slow)}
    if server.pool is not None:
        own["POOL_SIZE"] = str(server.pool)
    with hypercorn(own, log, app=server.app, workers=workers) as running:
        if server.app == Server.app:
            wait_until(lambda: is_ready(running), log=log)
        yield running.url


def note_on_filling(database: Database, receipts: int) -> str:
    size = fill(database, receipts) / receipts * 1e6 / 2**20
    return f"Many receipts are {receipts:,} of one number each; a million of them take {size:.0f} MiB on the disk."


@contextmanager
def migrated(server: DatabaseServer, workers: int) -> Iterator[Database]:
    with new_database(server) as database:
        environment = settings(database, workers)
        subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
        yield database


def settings(database: Database, workers: int) -> dict[str, str]:
    """Returns the environment of a server."""
    own = {"SECRET_KEY": uuid.uuid4().hex, "WORKERS": str(workers), "PYTHON_DOTENV_DISABLED": "1"}
    return {**os.environ, **database.environment, **own}


@contextmanager
def delayed(to: int, delay: float) -> Iterator[int]:
    """Starts the delaying proxy; the block gets its port."""
    port = free_port()
    options = ["--port", str(port), "--to", str(to), "--delay", str(delay)]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.delay", *options], cwd=ROOT)
    try:
        yield port
    finally:
        stop(process)


@contextmanager
def nginx(prefix: Path, to: str | None) -> Iterator[str]:
    """Starts nginx with the root's nginx.conf before a server, or, with none, with a fixed answer."""
    port = free_port()
    prefix.mkdir()
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    command = ["nginx", "-e", "stderr", "-p", str(prefix), "-c", "nginx.conf"]
    if to is None:
        (prefix / "nginx.conf").write_text(FIXED.format(port=port))
    else:
        own = {"LISTEN": f"127.0.0.1:{port}", "UPSTREAM": to.removeprefix("http://")}
        subprocess.run([ROOT / "deploy/nginx/render", prefix], env={**environment, **own}, check=True)
        command += ["-g", "daemon off;"]
    with (prefix / "access.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    server = Hypercorn(process, port, prefix / "access.log")
    try:
        wait_until(server.accepts, process=process, log=server.log)
        yield server.url
    finally:
        stop(process)
