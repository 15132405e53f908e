"""Measures, interleaved, and writes loadtests/RESULTS.md: python -m loadtests.speed --help."""

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from loadtests.speed.receipts import fill
from service.settings import ROOT
from tests.databases import Database, DatabaseServer, new_database, private_mariadb
from tests.processes import Hypercorn, free_port, hypercorn, is_ready, stop, wait_until

HERE = Path(__file__).parent
DELAYS = {"far": 0.001, "through": 0.0}
"""Seconds each way between a server and its database: a round trip of 2 ms, and what the proxy itself costs."""

SERVERS = {
    "near": "make()",
    "far": "make()",
    "through": "make()",
    "full": "make()",
    "quart": "bare_quart",
    "asgi": "bare_asgi",
}
"""The application of each."""

RESULTS, RUNS = HERE.parent / "RESULTS.md", HERE.parent / "results.json"


@dataclass(frozen=True)
class Candidate:
    """What is asked for: a path of a server, with or without keys."""

    name: str
    server: str
    path: str
    keyed: bool = False


class Claim(NamedTuple):
    """The median of `of`'s rate over that of `to` is at least `wanted`, in the runs of so many connections."""

    of: str
    to: str
    connections: int
    wanted: float


CEILING, COUNTER, KEYED, ALONE = "ceiling", "counter", "counter, each hit with a key", "one transaction a request"
FAR, FAR_CEILING = "counter, database 2 ms away", "ceiling beside it"
MANY, MANY_ALONE = "1,000 counters", "1,000 counters, one transaction a request"
THROUGH = "counter, through the same proxy without a delay"
FULL, FULL_KEYED = "counter with many receipts", "counter with many receipts, each hit with a key"
QUART, ASGI = "bare Quart", "bare ASGI"

CANDIDATES = {
    one.name: one
    for one in (
        Candidate(CEILING, "near", "/without-database"),
        Candidate(COUNTER, "near", "/"),
        Candidate(KEYED, "near", "/", keyed=True),
        Candidate(ALONE, "near", "/alone"),
        Candidate(MANY, "near", "/many"),
        Candidate(MANY_ALONE, "near", "/many-alone"),
        Candidate(FAR, "far", "/"),
        Candidate(FAR_CEILING, "far", "/without-database"),
        Candidate(THROUGH, "through", "/"),
        Candidate(FULL, "full", "/"),
        Candidate(FULL_KEYED, "full", "/", keyed=True),
        Candidate(QUART, "quart", "/"),
        Candidate(ASGI, "asgi", "/"),
    )
}

CLAIMS = [
    Claim(COUNTER, CEILING, 256, 0.85),
    Claim(COUNTER, CEILING, 64, 0.75),
    Claim(FAR, FAR_CEILING, 256, 0.7),
    Claim(THROUGH, COUNTER, 256, 0.0),
    Claim(KEYED, COUNTER, 256, 0.6),
    Claim(FULL, COUNTER, 256, 0.95),
    Claim(FULL_KEYED, KEYED, 256, 0.95),
    Claim(MANY, MANY_ALONE, 256, 1.0),
    Claim(COUNTER, ALONE, 256, 1.0),
    Claim(CEILING, QUART, 256, 0.0),
    Claim(CEILING, ASGI, 256, 0.0),
]


@dataclass(frozen=True)
class Run:
    """One run of wrk. Latencies are in milliseconds, the rate in requests/s."""

    candidate: str
    connections: int
    rate: float
    p50: float
    p99: float
    failed: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=int, default=20, help="how long each time (20)")
    parser.add_argument("--workers", type=int, default=2, help="Hypercorn workers (2)")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256], help="kept alive (64 256)")
    parser.add_argument("--receipts", type=int, default=10_000_000, help="how many are many (10,000,000)")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, metavar="NAME", help="only these candidates")
    parser.add_argument("--append", action="store_true", help="add the report to RESULTS.md, and leave what is there")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md as it is")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is needed: apt-get install wrk")
    wanted = [CANDIDATES[name] for name in given.only or CANDIDATES]
    runs: list[Run] = []
    notes: list[str] = []
    with servers(given.workers, {one.server for one in wanted}, given.receipts, notes) as running:
        for one in wanted:
            measure(one, running[one.server], 64, 2)  # warm
        for number in range(1, given.rounds + 1):
            for connections in given.connections:
                for one in compared(wanted, connections):
                    runs.append(measure(one, running[one.server], connections, given.seconds))
                    print(f"round {number}/{given.rounds} {describe(runs[-1])}", file=sys.stderr, flush=True)
    report = render(runs, given, notes)
    print(report)
    if not given.no_write:
        before, kept = (RESULTS.read_text() + "\n", json.loads(RUNS.read_text())) if given.append else ("", [])
        RESULTS.write_text(before + report)
        kept.append({"command": command(), "runs": [asdict(run) for run in runs]})
        RUNS.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


def compared(wanted: list[Candidate], connections: int) -> list[Candidate]:
    """Returns those that a claim compares at so many connections; all of them where there is no such claim."""
    names = {name for claim in CLAIMS if claim.connections == connections for name in (claim.of, claim.to)}
    return [one for one in wanted if not names or one.name in names]


def describe(run: Run) -> str:
    return (
        f"{run.connections:5} connections {run.rate:7.0f}/s p99 {run.p99:6.1f} ms {run.failed} failed: {run.candidate}"
    )


@contextmanager
def servers(workers: int, wanted: set[str], receipts: int, notes: list[str]) -> Iterator[dict[str, Hypercorn]]:
    """A private MariaDB, fully durable, and the servers; all idle until they are asked."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-speed-")))
        (folder / "database").mkdir()
        mariadb = stack.enter_context(private_mariadb(folder / "database"))
        databases = {name: stack.enter_context(migrated(mariadb, workers)) for name in ({"full"} & wanted) | {"near"}}
        if "full" in wanted:
            size = fill(databases["full"], receipts) / receipts * 1e6 / 2**20
            notes.append(
                f"Many receipts are {receipts:,} of one number each; a million of them take {size:.0f} MiB on the disk."
            )
        running = {}
        for name, app in SERVERS.items():
            if name not in wanted:
                continue
            own = settings(databases.get(name, databases["near"]), workers)
            if name in DELAYS:
                own["DB_PORT"] = str(stack.enter_context(delayed(mariadb.port, DELAYS[name])))
            server = stack.enter_context(
                hypercorn(own, folder / f"{name}.log", app=f"loadtests.speed.applications:{app}", workers=workers)
            )
            if app == "make()":
                wait_until(lambda server=server: is_ready(server), log=server.log)  # type: ignore[misc]
            running[name] = server
        yield running


@contextmanager
def migrated(server: DatabaseServer, workers: int) -> Iterator[Database]:
    with new_database(server) as database:
        environment = settings(database, workers)
        subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=environment, check=True)
        yield database


def settings(database: Database, workers: int) -> dict[str, str]:
    own = {"SECRET_KEY": uuid.uuid4().hex, "WORKERS": str(workers), "PYTHON_DOTENV_DISABLED": "1"}
    return {**os.environ, **database.environment, **own}


@contextmanager
def delayed(to: int, delay: float) -> Iterator[int]:
    port = free_port()
    options = ["--port", str(port), "--to", str(to), "--delay", str(delay)]
    command = [sys.executable, "-m", "loadtests.speed.delay", *options]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield port
    finally:
        stop(process)


def measure(
    candidate: Candidate, server: Hypercorn, connections: int, seconds: int, headers: Iterable[str] = ()
) -> Run:
    environment = {**os.environ, "KEYED": str(int(candidate.keyed)), "SALT": uuid.uuid4().hex}
    command = [
        "wrk",
        "--threads",
        "1",
        "--connections",
        str(connections),
        "--duration",
        str(seconds),
        *(f"--header={header}" for header in headers),
    ]
    ended = subprocess.run(
        [*command, "--timeout", "10", "--script", str(HERE / "report.lua"), server.url + candidate.path],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads(ended.stdout.splitlines()[-1])
    rate = result["requests"] / result["seconds"]
    return Run(candidate.name, connections, round(rate, 1), result["p50"], result["p99"], result["failed"])


def command() -> str:
    """Returns the command that repeats this."""
    return f"./run speed {shlex.join(sys.argv[1:])}".rstrip()


def render(runs: list[Run], given: argparse.Namespace, notes: list[str]) -> str:
    """Returns the report in Markdown: ratios first, then rates."""
    rounds = f"{given.rounds} rounds of {given.seconds} s"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [
        "# Results",
        "",
        "Ratios of rates within a round (candidates are measured in turn, A B C A B C): their median, the lowest and",
        "the highest round. Load generator (wrk, one thread), service and database (MariaDB, fully durable: `log_bin`,",
        "`sync_binlog=1`, `innodb_flush_log_at_trx_commit=1`) share the machine. To repeat it:",
        "",
        f"    {command()}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {machine}, {versions}; {given.workers} workers, {rounds}.",
        "",
        "| | connections | median ratio | lowest | highest | wanted | p99, ratio | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        of, to = (of_candidate(runs, name, claim.connections) for name in (claim.of, claim.to))
        if not of or not to:
            continue
        ratios = [one.rate / other.rate for one, other in zip(of, to, strict=True)]
        tails = statistics.median(one.p99 / other.p99 for one, other in zip(of, to, strict=True))
        median = statistics.median(ratios)
        verdict = "" if not claim.wanted else "reached" if median >= claim.wanted else "not reached"
        lines.append(
            f"| {claim.of} / {claim.to} | {claim.connections} | {median:.2f} | {min(ratios):.2f} | {max(ratios):.2f} | "
            f"{claim.wanted or ''} | {tails:.2f} | {verdict} |"
        )
    lines += ["", "| | connections | requests/s | p50, ms | p99, ms | failed |", "|---|---|---|---|---|---|"]
    for connections in given.connections:
        for name in given.only or CANDIDATES:
            own = of_candidate(runs, name, connections)
            if not own:
                continue
            rate, p50, p99 = (statistics.median(getattr(run, what) for run in own) for what in ("rate", "p50", "p99"))
            lines.append(
                f"| {name} | {connections} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {sum(run.failed for run in own)} |"
            )
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


VERSIONS = "quart", "hypercorn", "uvloop", "sqlalchemy", "aiomysql"


def of_candidate(runs: list[Run], name: str, connections: int) -> list[Run]:
    return [run for run in runs if (run.candidate, run.connections) == (name, connections)]


if __name__ == "__main__":
    sys.exit(main())
