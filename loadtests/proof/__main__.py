"""The proof: one Locust scenario against the flask_patch application and against Tally, with ever more users.

`./run load --compare` starts both with a database of their own, and again with one that takes 100 ms for each
transaction. Each is told as it is found; at the end come a table, a chart and the ratios. Locust takes as much of the
machine as the service does, or more: rates are lower than in `./run bench`, and what is fast gains least by the ratio.
"""

import argparse
import sys

from benchmarks import charts
from benchmarks.measuring import FOREIGN, MeasuringError, Run, by_users
from benchmarks.servers import say, servers
from benchmarks.suites import FLASK_PATCH, SLOW_FLASK_PATCH, SLOW_TALLY, TALLY
from harness.environments import NotInstalled
from harness.machine import interrupt_at_any_signal, raise_descriptors

USERS = 1, 5, 20, 50, 100, 200, 500

COMPARED = {
    TALLY: ("near", "visitors"),
    FLASK_PATCH: ("flask_patch", "visitors"),
    SLOW_TALLY: ("slow", "slow_database"),
    SLOW_FLASK_PATCH: ("flask_patch, slow", "slow_database"),
}
"""By name, the server and the scenario."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run load --compare", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=USERS, help="how many at a time (1 to 500)")
    parser.add_argument("--seconds", type=int, default=6, help="how long each time (6)")
    parser.add_argument("--workers", type=int, default=2, help="of each server (2)")
    given = parser.parse_args()
    interrupt_at_any_signal()
    if reason := raise_descriptors(4 * max(given.users) + 1000):
        print(reason, file=sys.stderr)
        return 2
    runs: list[Run] = []
    try:
        names = {server for server, _ in COMPARED.values()}
        with servers(names, workers=given.workers, receipts=1, notes=[]) as addresses:
            for users in given.users:
                for name, (server, scenario) in COMPARED.items():
                    runs.append(by_users(scenario, name, addresses[server], users, given.seconds))
                    say(f"{users:4} users {runs[-1].rate:7.1f}/s p99 {runs[-1].p99:g} ms: {name}")
                    if runs[-1].foreign > FOREIGN:
                        say(f"  others took {runs[-1].foreign:.0%} of the processors' time")
    except KeyboardInterrupt:
        say("interrupted: everything is stopped")
        return 130
    except (NotInstalled, MeasuringError) as error:
        say(str(error))
        return 1
    finally:
        print(table(runs))
    say(f"the chart is {charts.draw_users(runs)}")
    return 0


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
