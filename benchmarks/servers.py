"""The servers of a benchmark: applications, other stacks, nginx; idle until they are measured."""

import os
import subprocess
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import slow_disk
from benchmarks.receipts import fill
from benchmarks.suites import SERVERS, Server
from harness.databases import Database
from harness.environments import serving
from harness.processes import Hypercorn, free_port, stop, wait_until
from harness.proxy import delayed
from loadtests.proof.servers import application, database_server, environment_of, migrated_database, say
from service.platform.settings import ROOT

FIXED = """pid nginx.pid; error_log stderr; daemon off; worker_processes auto;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000; default_type text/html;
    server {{ listen 127.0.0.1:{port} backlog=4096; return 200 "<h1>Counter: 1</h1>"; }}
}}
"""


@contextmanager
def servers(names: Collection[str], *, workers: int, receipts: int, notes: list[str]) -> Iterator[dict[str, str]]:
    """Starts the named servers of SERVERS; gives their addresses by name. `notes` gets what the report must say."""
    with ExitStack() as stack:
        mariadb, folder = stack.enter_context(database_server())
        addresses: dict[str, str] = {}
        slow_notes: dict[float, str] = {}
        behind = {server.behind for server in map(SERVERS.__getitem__, names) if server.behind}
        for name in sorted({*names, *behind}, key=lambda name: SERVERS[name].behind is not None):
            server = SERVERS[name]
            say(f"starting {name}")
            if server.fixed or server.behind is not None:
                to = None if server.behind is None else addresses[server.behind]
                addresses[name] = stack.enter_context(nginx(folder / f"nginx-{name}", to))
                continue
            # One each: hits that still wait after a run then load no other server. On a slow disk they would from
            # another database of the same server, too: commits share their syncs.
            on = mariadb
            if server.sync:
                on, commit = stack.enter_context(slow_disk.slow_disk(server.sync, mariadb))
                slow_notes[server.sync] = slow_disk.note(server.sync, commit)
            database = stack.enter_context(migrated_database(on))
            if server.full:
                notes.append(note_on_filling(database, receipts))
            environment = environment_of(database, workers=server.workers or workers)
            if server.delay is not None:
                environment["DB_PORT"] = str(stack.enter_context(delayed(on.port, server.delay)))
            log = folder / f"{name}.log"
            addresses[name] = stack.enter_context(serve(server, environment, log, server.workers or workers))
        notes += slow_notes.values()
        yield addresses


@contextmanager
def serve(server: Server, environment: dict[str, str], log: Path, workers: int) -> Iterator[str]:
    """Starts an application or another stack; gives its address."""
    if server.stack is not None:
        with serving(server.stack, environment, workers=workers, log=log, pool=server.pool, slow=server.slow) as url:
            yield url
        return
    with application(
        server.app,
        environment,
        log,
        workers=workers,
        slow=server.slow,
        pool=server.pool,
        has_readiness=server.app == Server.app,
    ) as url:
        yield url


def note_on_filling(database: Database, receipts: int) -> str:
    """Fills the database, and returns a note for the report."""
    size = fill(database, receipts) / receipts * 1e6 / 2**20
    return f"Many receipts are {receipts:,} of one number each; a million of them take {size:.0f} MiB on the disk."


@contextmanager
def nginx(prefix: Path, to: str | None) -> Iterator[str]:
    """Starts nginx with the root's nginx.conf before a server, or, with none, with a fixed answer."""
    port = free_port()
    prefix.mkdir()
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    command: list[Path | str]
    if to is None:
        command = ["nginx", "-e", "stderr", "-p", prefix, "-c", "nginx.conf"]
        (prefix / "nginx.conf").write_text(FIXED.format(port=port))
    else:
        own = {"LISTEN": f"127.0.0.1:{port}", "UPSTREAM": to.removeprefix("http://")}
        subprocess.run([ROOT / "deploy/nginx/render", prefix], env={**environment, **own}, check=True)
        command = [ROOT / "deploy/nginx/foreground", prefix]
    with (prefix / "access.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    server = Hypercorn(process, port, prefix / "access.log")
    try:
        wait_until(server.accepts, process=process, log=server.log)
        yield server.url
    finally:
        stop(process)
