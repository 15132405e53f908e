"""The proof: one Locust scenario against the flask_patch application and against Tally, with ever more users.

`./run load --compare` starts both with a database of their own, and again with one that takes 100 ms for each
transaction. It prints each run, then a table with the ratios, and draws a chart. Locust takes as much of the machine as
the service does, or more, which lowers the rate of the faster stack most: ratios are lower than with a lighter client.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.databases import DatabaseServer
from harness.environments import NotInstalled, Stack, serving
from harness.machine import interrupt_at_any_signal, raise_descriptors
from loadtests.proof import charts
from loadtests.proof.measuring import FOREIGN_LIMIT, MeasuringError, Run, run_users
from loadtests.proof.servers import application, database_server, environment_of, migrated_database, say
from loadtests.proof.stacks import FLASK_PATCH, FLASK_PATCH_STACK, SLOW, SLOW_POOL, TALLY, on_slow_database
from service.platform.settings import ROOT

USERS = 1, 5, 20, 50, 100, 200, 500

CHART = ROOT / ".run/load/users.svg"


class Compared(NamedTuple):
    """A server and the scenario that loads it. `stack` is None for the service itself."""

    scenario: str
    stack: Stack | None = None
    slow: float = 0.0


COMPARED = {
    TALLY: Compared("visitors"),
    FLASK_PATCH: Compared("visitors", FLASK_PATCH_STACK),
    on_slow_database(TALLY): Compared("slow_database", slow=SLOW),
    on_slow_database(FLASK_PATCH): Compared("slow_database", FLASK_PATCH_STACK, slow=SLOW),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run load --compare", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=USERS, help="how many at a time (1 to 500)")
    parser.add_argument("--seconds", type=int, default=6, help="how long each time (6)")
    parser.add_argument("--workers", type=int, default=2, help="of each server (2)")
    parser.add_argument("--chart", type=Path, default=CHART, help=f"where to draw it ({CHART.relative_to(ROOT)})")
    given = parser.parse_args()
    interrupt_at_any_signal()
    if reason := raise_descriptors(4 * max(given.users) + 1000):
        print(reason, file=sys.stderr)
        return 2
    runs: list[Run] = []
    try:
        with servers(given.workers) as addresses:
            for users in given.users:
                for name, one in COMPARED.items():
                    runs.append(run_users(one.scenario, name, addresses[name], users, given.seconds))
                    tell(runs[-1], f"{len(runs)}/{len(given.users) * len(COMPARED)}")
    except KeyboardInterrupt:
        say("interrupted: everything is stopped")
        return 130
    except (NotInstalled, MeasuringError) as error:
        say(str(error))
        return 1
    finally:
        print(table(runs))
    try:
        say(f"the chart is {draw(given.chart, runs)}")
    except NotInstalled as error:
        say(str(error))
        return 1
    return 0


@contextmanager
def servers(workers: int) -> Iterator[dict[str, str]]:
    """Starts every server of COMPARED, each with a database of its own; gives their addresses by name."""
    with ExitStack() as stack:
        mariadb, folder = stack.enter_context(database_server())
        addresses = {}
        for number, (name, one) in enumerate(COMPARED.items()):
            say(f"starting {name}")
            addresses[name] = stack.enter_context(serve(one, mariadb, folder / f"{number}.log", workers))
        yield addresses


@contextmanager
def serve(one: Compared, mariadb: DatabaseServer, log: Path, workers: int) -> Iterator[str]:
    """Starts one server; gives its address."""
    pool = SLOW_POOL if one.slow else None
    with ExitStack() as stack:
        database = stack.enter_context(migrated_database(mariadb))
        environment = environment_of(database, workers=workers)
        if one.stack is None:
            app = "loadtests.proof.slow_database:make()"
            yield stack.enter_context(application(app, environment, log, workers=workers, slow=one.slow))
        else:
            yield stack.enter_context(
                serving(one.stack, environment, workers=workers, log=log, pool=pool, slow=one.slow)
            )


def tell(run: Run, which: str) -> None:
    """Prints a run as progress; `which` of all it is."""
    say(f"{which}: {run.connections:4} users {run.rate:7.1f}/s p99 {run.p99:g} ms: {run.candidate}")
    if run.foreign > FOREIGN_LIMIT:
        say(f"  others took {run.foreign:.0%} of the processors' time")


def draw(chart: Path, runs: list[Run]) -> Path | None:
    """Draws the rates by users; returns the chart's path, None without runs. Raises NotInstalled."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        lines.setdefault(run.candidate, []).append((run.connections, run.rate))
    return charts.draw(chart, {"": lines}, "users", "requests/s")


def table(runs: list[Run]) -> str:
    """Returns rates, 99th percentiles and ratios by the number of users, in Markdown."""
    found = {(run.candidate, run.connections): run for run in runs}
    names = " | ".join(f"{name}: requests/s (p99, ms)" for name in COMPARED)
    lines = [
        f"| users | {names} | ratio | ratio, slow database |",
        f"|---|{'---|' * (len(COMPARED) + 2)}",
    ]
    for users in dict.fromkeys(run.connections for run in runs):
        row = [found.get((name, users)) for name in COMPARED]
        cells = [f"{run.rate:.0f} ({run.p99:.0f})" if run else "" for run in row]
        ratios = [
            f"**{one.rate / other.rate:.1f}**" if one and other and other.rate else ""
            for one, other in (row[:2], row[2:])
        ]
        lines.append(f"| {users} | {' | '.join([*cells, *ratios])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
