"""The beginning and the end of every run: the target is checked first, and a verdict is printed last.

Ends with 0 if each check was passed and each threshold reached, with 1 and the reasons otherwise. An application's own
checks are added to CHECKS, and the scopes that its scenarios need to SCOPES.
"""

import os
import resource
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import gevent
import requests
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import STATE_INIT, STATE_STOPPED, MasterRunner, WorkerRunner

from loadtests.thresholds import DEFAULT, Thresholds, ThresholdsError, entry_of, load_thresholds, missed

WORKERS_END = 60.0
"""Seconds that the master waits for its workers' last reports."""

TIMEOUT = 30.0
"""Seconds for a request before or after the run."""


class TargetError(Exception):
    """The target cannot be loaded; the text says why and what to do."""


class Check(Protocol):
    """A check besides the thresholds, in the process that judges: the only one, or the master."""

    def begin(self, environment: Environment) -> None:
        """Runs before the first request. Raises TargetError if the run cannot begin."""

    def findings(self, environment: Environment) -> Iterable[str]:
        """Returns the violations, after the last request."""

    def summary(self) -> str:
        """Returns a line for the end of the run."""


CHECKS: list[Check] = []

SCOPES: list[str] = []
"""Of the token that the scenarios need."""


class Run:
    """The state of a run, in the process that judges it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.thresholds: Mapping[str, Thresholds] = {}
        self.failed = False
        """Whether a failure was printed; no later result changes it."""
        self.begun = False
        self.judged = False

    def begin(self) -> None:
        """Ends the run at once where the target or the thresholds do not let it begin."""
        options = self.environment.parsed_options
        assert options is not None
        self.environment.process_exit_code = 1  # until it is judged otherwise, whatever ends it
        try:
            self.thresholds = load_thresholds(options.thresholds, scenarios(self.environment))
            check_descriptors(self.environment)
            ask(self.environment, "GET", "/livez", any_status=True)
            for check in CHECKS:
                check.begin(self.environment)
        except (ThresholdsError, TargetError) as error:
            self.fail(f"the run could not begin: {error}")
            return
        self.environment.stats.clear_all()  # the requests sent here and their time are no part of the run
        self.begun = True
        gevent.spawn(self._watch)
        if run_time := getattr(options, "time_of_requests", None):
            assert self.environment.runner is not None
            gevent.spawn_later(run_time, self.environment.runner.quit)

    def fail(self, reason: str) -> None:
        """Prints the reason, and ends the run."""
        self.failed = True
        print(f"FAILED: {reason}", flush=True)
        runner = self.environment.runner
        assert runner is not None
        # From a greenlet of its own: the caller's may end with the run.
        gevent.spawn_later(0.1, runner.stop if self.environment.web_ui else runner.quit)

    def judge(self) -> None:
        """Prints the verdict and sets the exit code."""
        if self.judged:
            return
        self.judged = True
        findings = list(self._findings()) if self.begun else []
        if not self.begun and not self.failed:
            findings.append("the run was ended before it could begin: the target had not answered yet")
        for finding in findings:
            print(f"FAILED: {finding}", flush=True)
        if not findings and not self.failed:
            print("PASSED", flush=True)
            self.environment.process_exit_code = 0

    def _findings(self) -> Iterable[str]:
        if isinstance(self.environment.runner, MasterRunner) and (lost := _workers - _finished):
            yield f"{len(lost)} Locust workers were lost, and what they knew with them"
        for check in CHECKS:
            yield from check.findings(self.environment)
            print(check.summary(), flush=True)
        for scenario in scenarios(self.environment):
            entry = entry_of(self.environment.stats, scenario)
            refused = entry_of(self.environment.stats, refused_name(scenario))
            p50, p95, p99 = (entry.get_response_time_percentile(part) for part in (0.5, 0.95, 0.99))
            print(
                f"{scenario}: {entry.num_requests} requests, {entry.num_failures} failures, {entry.total_rps:.1f}/s, "
                f"p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, and {refused.num_requests} refused",
                flush=True,
            )
            if scenario in self.thresholds:
                yield from missed(entry, self.thresholds[scenario])

    def _watch(self) -> None:
        """Ends a run without a successful response for too long."""
        answered, quiet = 0, 0
        options = self.environment.parsed_options
        limit = getattr(options, "stall_limit", 10.0) + getattr(options, "every", 0.0)
        while not self.judged and quiet < limit:
            gevent.sleep(1)
            total = self.environment.stats.total
            now = total.num_requests - total.num_failures
            quiet = quiet + 1 if now == answered and total.num_requests else 0
            answered = now
        if not self.judged:
            self.fail(f"no request was answered well for {limit:g} s")


_runs: dict[int, Run] = {}
"""By the id of the environment."""

_workers: set[str] = set()
"""The ids of the workers that take part in the run."""

_finished: set[str] = set()
"""The ids of those that have sent their last report."""


def scenarios(environment: Environment) -> list[str]:
    """Returns the names of the scenarios that run."""
    return [one.__name__ for one in environment.user_classes]


def refused_name(scenario: str) -> str:
    """Returns the name, in Locust's statistics, of a scenario's requests that were refused as expected."""
    return f"{scenario} refused"


def token_header(environment: Environment) -> dict[str, str]:
    """Returns the header with the token of `--token`, none without one."""
    options = environment.parsed_options
    return {"Authorization": f"Bearer {options.token}"} if options and options.token else {}


def ask(environment: Environment, method: str, path: str, *, any_status: bool = False) -> requests.Response:
    """Sends a request outside the run's statistics. Raises TargetError unless it is answered well."""
    host = (environment.host or "").rstrip("/")
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy of the environment's, as Locust's own requests
            answer = session.request(method, host + path, timeout=TIMEOUT, headers=token_header(environment))
    except requests.RequestException as error:
        raise TargetError(
            f"{host} does not answer ({type(error).__name__}): start it (./run up, or docker-compose -f "
            "docker-compose.prod.yml up), or name another with --host"
        ) from None
    if answer.status_code in {401, 403}:
        scopes = f" with the scopes {' and '.join(SCOPES)}" if SCOPES else ""
        options = "".join(f" --scope {scope}" for scope in SCOPES)
        raise TargetError(
            f"this scenario needs a token{scopes}: make one by `./run quart tokens make load{options}`, and give it "
            "with --token or in LOCUST_TOKEN"
        )
    if not answer.ok and not any_status:
        raise TargetError(f"{method} {path} was answered {answer.status_code}: {answer.text.strip()[:300]}")
    return answer


def check_descriptors(environment: Environment) -> None:
    """Raises TargetError unless this process may open a connection for each user."""
    runner = environment.runner
    if isinstance(runner, MasterRunner) or runner is None:
        return
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = max(getattr(one, "connections", 1) for one in environment.user_classes)
    needed = runner.target_user_count * each + 100
    if limit < needed:
        raise TargetError(
            f"{runner.target_user_count} users need {needed} file descriptors, and this process may have {limit}: "
            f"raise the limit (`ulimit -n {needed}`; its hard limit is {hard}), or let more processes share the users "
            "(`--processes`)"
        )


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--thresholds", default=str(DEFAULT), help="a file like loadtests/thresholds.toml; none: correctness alone"
    )
    parser.add_argument(
        "--token",
        default="",
        env_var="LOCUST_TOKEN",
        is_secret=True,
        help="for an API that asks for one; ./run quart tokens makes one",
    )
    parser.add_argument(
        "--stall-limit", type=float, default=10.0, help="seconds without a successful response that end a run (10)"
    )
    parser.set_defaults(expect_workers_max_wait=60)  # a master would wait for its workers for ever


@events.test_start.add_listener
def begin(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        if isinstance(environment.runner, MasterRunner):
            _workers.clear()
            _workers.update(client.id for client in environment.runner.clients.all)
        run = _runs[id(environment)] = Run(environment)
        run.begin()


@events.worker_connect.add_listener
def note_worker(client_id: str, **_: Any) -> None:
    _workers.add(client_id)


@events.init.add_listener
def listen(environment: Environment, **_: Any) -> None:
    """Makes master and workers agree on the end of a run: by default the master ends without their last reports."""
    runner, options = environment.runner, environment.parsed_options
    if isinstance(runner, WorkerRunner):
        if options and options.processes:
            # A terminal's Ctrl-C comes to all processes; the master ends these, after their last reports.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        def finish(**_: Any) -> None:
            if options and options.headless:
                runner.last_received_spawn_timestamp = sys.maxsize  # the master may still be sending more users
            runner.stop()
            runner._send_stats()
            runner.send_message("finished")

        runner.register_message("finish", finish, concurrent=True)
        return
    if options and options.headless and options.run_time:
        # Locust counts from before the target is asked: a run on a busy machine could end before its first request.
        print(f"The run takes {options.run_time} s from its first request on. Locust itself has no limit.", flush=True)
        options.time_of_requests, options.run_time = options.run_time, None
    # As SIGTERM, which comes between two greenlets: a KeyboardInterrupt strikes anywhere, in the ledger or where nobody
    # hears of it.
    gevent.signal_handler(signal.SIGINT, os.kill, os.getpid(), signal.SIGTERM)
    if isinstance(runner, MasterRunner):
        runner.register_message("finished", lambda msg, **_: _finished.add(msg.node_id))


@events.test_stopping.add_listener
def wait_for_workers(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        return
    _finished.clear()
    runner.send_message("finish")
    with gevent.Timeout(WORKERS_END, False):
        while (
            {client.id for client in runner.clients.all} - {client.id for client in runner.clients.missing} - _finished
        ):
            gevent.sleep(0.1)


@events.test_stop.add_listener
def judge(environment: Environment, **_: Any) -> None:
    if run := _runs.get(id(environment)):
        run.judge()


@events.quitting.add_listener
def stop_first(environment: Environment, **_: Any) -> None:
    """Ends the run before the exit code is asked for, which Locust does the other way round at Ctrl-C."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        environment.process_exit_code = 0  # the master judges
    elif runner is not None and runner.state not in {STATE_INIT, STATE_STOPPED}:
        runner.stop()
