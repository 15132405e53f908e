"""A real Prometheus scrapes the stack: `--profile observability`."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness.compose import Stack, docker, inspect, logged
from harness.processes import free_port, wait_until
from service.platform.settings import ROOT

# --- counter
from tests.counter.addresses import check_that_they_move

# --- end of counter

pytestmark = pytest.mark.compose

BESIDE = {"prometheus": "65534:65534", "exporter": "999:999"}


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Iterator[str]:
    """Its address."""
    port = free_port()
    observed = stack.over(COMPOSE_PROFILES="observability", PROMETHEUS_PORT=str(port))
    observed.up("--build", "--no-recreate")
    yield f"http://127.0.0.1:{port}"
    observed.compose("rm", "--stop", "--force", "--volumes", *BESIDE)


# --- counter
@pytest.mark.browser
def test_the_readmes_page_dashboard_and_api_move_under_load(
    prometheus: str, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_that_they_move(stack, prometheus, tmp_path_factory.mktemp("load") / "log")


# --- end of counter
def ask(prometheus: str, query: str) -> dict[str, float]:
    """Returns the query's values by their labels, without those that are no numbers."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    found: list[Any] = answer["data"]["result"]
    values = {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in found}
    return {labels: value for labels, value in values.items() if not math.isnan(value)}


def queries() -> list[str]:
    """Returns all queries of the dashboards."""
    boards = [json.loads(path.read_text()) for path in (ROOT / "deploy/prometheus").glob("*.json")]
    panels = [panel for board in boards for panel in board["panels"] if panel["type"] != "row"]
    return [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]]


def tiles(prometheus: str) -> dict[str, tuple[str, str]]:
    """Returns the value of each tile of the page that Prometheus serves, and the points of its line, by its title."""
    page = httpx.get(f"{prometheus}/consoles/dashboard.html")
    assert page.status_code == 200, page.text
    tile = r'<h2><a href="/graph[^"]+">(.+?)</a></h2>\s*<p class="value">(.*?)</p>.*?points="(.*?)"'
    return {title: (value, points) for title, value, points in re.findall(tile, page.text, re.DOTALL)}


def empty_tiles(prometheus: str) -> list[str]:
    """Returns the titles of those without a value or a line; a new stack has no backup and no certificate."""
    shown = tiles(prometheus).items()
    return [
        title
        for title, (value, points) in shown
        if value not in {"never", "no TLS"} and not (value[0].isdigit() and points)
    ]


def test_every_query_and_tile_of_the_dashboards_has_a_value_under_load(prometheus: str, stack: Stack) -> None:
    left = queries()
    assert len(left) > 20
    assert len(tiles(prometheus)) > 10

    def none_is_empty() -> bool:
        nonlocal left
        for _ in range(20):
            stack.status("/")
        left = [query for query in left if not ask(prometheus, query)]
        return not left and not empty_tiles(prometheus)

    try:
        wait_until(none_is_empty, limit=90)
    except AssertionError:
        pytest.fail(f"empty: {left + empty_tiles(prometheus)}")


def test_it_finds_every_replica_and_all_its_rules_work(prometheus: str, stack: Stack) -> None:
    wait_until(lambda: list(ask(prometheus, 'up{job="service"}').values()) == [1.0] * 2)
    wait_until(lambda: set(ask(prometheus, "exporter_up").values()) == {1.0})
    stack.compose("--profile", "observability", "logs", "exporter")  # as the runbook says, where one is 0
    (container,) = stack.over(COMPOSE_PROFILES="observability").containers("prometheus")
    assert [line for line in logged(container).splitlines() if not line.startswith("{")] == []
    groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


@pytest.mark.rehearsal  # tests/platform/test_metrics.py has a directory that cannot be written
def test_a_replica_whose_disk_for_metrics_is_full_serves_and_is_seen(prometheus: str, stack: Stack) -> None:
    full, _ = stack.containers("web")
    fill = "dd if=/dev/zero of=/tmp/full bs=1M 2>/dev/null; true"
    docker("exec", full, "sh", "-c", fill)
    try:
        script = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8000/metrics').status)"
        assert docker("exec", full, "python", "-c", script, check=False) == ""
        wait_until(lambda: sorted(ask(prometheus, 'up{job="service"}').values()) == [0, 1])
        assert stack.is_ready(full)
        assert "No space left on device" in logged(full)
    finally:
        docker("exec", full, "rm", "/tmp/full")
    wait_until(lambda: list(ask(prometheus, 'up{job="service"}').values()) == [1, 1])


def test_neither_may_do_more_than_its_work_and_only_prometheus_is_published_here(prometheus: str, stack: Stack) -> None:
    observed = stack.over(COMPOSE_PROFILES="observability")
    for service, user in BESIDE.items():
        (container,) = observed.containers(service)
        found = inspect(container)
        host: dict[str, Any] = found["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == (True, ["ALL"], None)
        assert found["Config"]["User"] == user
        writable = {mount["Destination"] for mount in found["Mounts"] if mount["RW"]}
        assert writable == ({"/prometheus"} if service == "prometheus" else set())
        addresses = {one["HostIp"] for ports in host["PortBindings"].values() for one in ports}
        assert addresses == ({"127.0.0.1"} if service == "prometheus" else set())
