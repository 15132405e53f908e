"""How much faster a route without a database has become: python -m loadtests.bench.ceiling --base REVISION.

Runs the service out of worktrees of revisions and out of this checkout, all with this Python and each with the packages
that its requirements.txt pins, and asks each in turn (A B C A B C) for `/without-database`. No database runs, which the
servers log.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from loadtests.bench.measuring import Run, by_wrk
from loadtests.bench.suites import Candidate
from service.platform.settings import ROOT
from tests.processes import Hypercorn, free_port, hypercorn

HERE = "this checkout"

PROXIED = (
    "X-Forwarded-For: 203.0.113.9",
    "X-Forwarded-Proto: https",
    "X-Request-ID: 0123456789abcdef0123456789abcdef",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
)
"""What nginx sends on for a browser."""


@dataclass(frozen=True)
class Measured:
    """A run of wrk, and what a request in it cost: its workers' processor time in microseconds."""

    run: Run
    cost: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.ceiling", description=__doc__)
    parser.add_argument("--base", required=True, help="the revision, or folder, that all are compared with")
    parser.add_argument("--steps", nargs="*", default=[], metavar="REVISION", help="more revisions, or folders")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--seconds", type=int, default=8, help="how long each time (8)")
    parser.add_argument("--workers", type=int, default=1, help="Hypercorn workers (1)")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 256], help="kept alive (64 256)")
    parser.add_argument("--path", default="/without-database", help="what is asked for (/without-database)")
    parser.add_argument("--proxied", action="store_true", help="with the headers that nginx sends on for a browser")
    given = parser.parse_args()
    names = [given.base, *given.steps, HERE]
    headers = PROXIED if given.proxied else ()
    measured: dict[tuple[str, int], list[Measured]] = {}
    with servers(names, given.workers) as running:
        candidates = [(Candidate(name, name, given.path), running[name]) for name in names]
        for candidate, server in candidates:
            ask(candidate, server, 64, 2, headers)  # warm
        for connections in given.connections * given.rounds:
            for candidate, server in candidates:
                one = ask(candidate, server, connections, given.seconds, headers)
                measured.setdefault((candidate.name, connections), []).append(one)
                print(f"{connections:4} {one.run.rate:6.0f}/s {one.cost:4.0f} us: {candidate.name}", file=sys.stderr)
    print(
        f"Python {platform.python_version()}, {given.workers} worker(s), {given.rounds} rounds of {given.seconds} s\n"
    )
    print(render(measured, names, given.connections))
    return 0


@contextmanager
def servers(names: list[str], workers: int) -> Iterator[dict[str, Hypercorn]]:
    """One server for each, all idle until they are asked."""
    names_nothing = {"DB_HOST": "127.0.0.1", "DB_PORT": str(free_port()), "DB_USERNAME": "none", "DB_PASSWORD": "none"}
    environment = {
        **os.environ,
        **names_nothing,
        "SECRET_KEY": "a secret key of nothing",
        "PYTHON_DOTENV_DISABLED": "1",
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tally-ceiling-")))
        running = {}
        for number, name in enumerate(names):
            log, tree = folder / f"{number}.log", Path(name)
            if name == HERE:
                tree = ROOT
            elif not tree.is_dir():
                tree = stack.enter_context(worktree(name, folder / f"tree-{number}"))
            own = packages(tree, folder / f"packages-{number}")
            where = "bench" if (tree / "loadtests/bench").is_dir() else "speed"  # its name in older revisions
            running[name] = stack.enter_context(
                hypercorn(
                    {**environment, "PYTHONPATH": str(own)},
                    log,
                    app=f"loadtests.{where}.applications:make()",
                    workers=workers,
                    cwd=tree,
                )
            )
        yield running


@contextmanager
def worktree(revision: str, folder: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def packages(tree: Path, folder: Path) -> Path:
    """Installs there what the tree pins in another version than is installed here; returns the folder."""
    pins = re.findall(r"^([\w.-]+)==([^\s;]+)", (tree / "requirements.txt").read_text(), re.MULTILINE)
    installed = {one.name.lower(): one.version for one in distributions()}
    others = [f"{name}=={version}" for name, version in pins if installed.get(name, version) != version]
    if others:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), *others], check=True)
    return folder


def ask(candidate: Candidate, server: Hypercorn, connections: int, seconds: int, headers: tuple[str, ...]) -> Measured:
    before = spent(server)
    run = by_wrk(candidate, server.url, connections, seconds, number="", headers=headers)
    if run.failed:
        raise SystemExit(f"{run.failed} requests failed: {candidate.name}")
    return Measured(run, (spent(server) - before) / (run.rate * seconds) * 1e6)


def spent(server: Hypercorn) -> float:
    """The processor time of the workers so far, in seconds."""
    return sum(sum(worker.cpu_times()[:2]) for worker in server.workers())


def render(measured: dict[tuple[str, int], list[Measured]], names: list[str], connections: list[int]) -> str:
    """The table in Markdown. Ratios are those within a round: their median, lowest and highest."""
    lines = [
        "| | connections | requests/s | ratio | lowest | highest | us a request | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number in connections:
        base = measured[names[0], number]
        for name in names:
            own = measured[name, number]
            rates = [one.run.rate / other.run.rate for one, other in zip(own, base, strict=True)]
            costs = [one.cost / other.cost for one, other in zip(own, base, strict=True)]
            rate, cost = statistics.median(one.run.rate for one in own), statistics.median(one.cost for one in own)
            lines.append(
                f"| {name} | {number} | {rate:.0f} | {statistics.median(rates):.2f} | {min(rates):.2f} | "
                f"{max(rates):.2f} | {cost:.0f} | {statistics.median(costs):.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
