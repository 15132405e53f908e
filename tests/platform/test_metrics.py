import fcntl
import platform
import re
import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.databases import Database
from harness.processes import Hypercorn, wait_until
from service.platform import metrics
from service.platform.settings import ROOT
from tests.conftest import Start

pytestmark = pytest.mark.any_database


def scraped(server: Hypercorn) -> dict[tuple[str, ...], float]:
    """Returns the samples by their names and the values of their labels."""
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    families = text_string_to_metric_families(answer.text)
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in families
        for one in family.samples
    }


def test_requests_are_counted_over_all_workers_by_method_route_and_status(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=2, APP_VERSION="1.2", DB_POOL_SIZE=3)
    processes: set[str] = set()
    while len(processes) < 2:  # however the system gives them connections
        processes.add(httpx.get(f"{server.url}/probe/process").text)
    for name in "a", "b":
        httpx.post(f"{server.url}/probe/session/{name}")
        httpx.get(f"{server.url}/probe/session/{name}")  # the method is not allowed
        httpx.get(f"{server.url}/no/such/{name}")
        httpx.request(f"X{name}", f"{server.url}/probe/echo")
    httpx.get(f"{server.url}/probe/error")
    httpx.get(f"{server.url}/probe/query?sql=SELECT+1")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /probe/wait/x HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: server.logged("x waits"))
    expected = {
        ("GET", "/probe/error", "500"): 1,
        ("GET", "/probe/query", "200"): 1,
        ("GET", "/probe/wait/<name>", "499"): 1,
        ("GET", "unmatched", "404"): 2,
        ("GET", "unmatched", "405"): 2,
        ("POST", "/probe/session/<value>", "200"): 2,
        ("other", "unmatched", "405"): 2,
    }

    def counted() -> dict[tuple[str, ...], float]:
        found = {key[1:]: value for key, value in scraped(server).items() if key[0] == "http_requests_total"}
        return {key: value for key, value in found.items() if key in expected or key[1] == "unmatched"}

    wait_until(lambda: counted() == expected)
    found = scraped(server)
    ((revision,),) = database.execute("SELECT version_num FROM alembic_version")
    assert found["service_schema_info", revision] == 1
    assert found["service_build_info", platform.python_version(), "1.2"] == 1
    assert found["db_pool_size",] == 2 * 3
    assert found["db_pool_wait_seconds_count",] == 1
    assert found["http_request_duration_seconds_count", "POST", "/probe/session/<value>"] == 2
    assert found["http_requests_in_progress",] >= 1  # the one for metrics
    assert found["service_ready",] == 1
    assert found["mysql_global_variables_max_connections",] > found["mysql_global_status_threads_connected",] >= 1
    assert found["event_loop_lag_seconds_count",] > 0


def test_what_has_been_shown_never_goes_back_whichever_worker_is_asked(database: Database, start: Start) -> None:
    server = start(workers=2)
    key = "http_requests_total", "GET", "/livez", "200"
    before = 0.0
    for _ in range(30):  # each on a connection of its own
        httpx.get(f"{server.url}/livez")
        now = scraped(server).get(key, 0.0)
        assert now >= before
        before = now
    wait_until(lambda: scraped(server)[key] == 30)


def test_metrics_are_not_shown_through_a_proxy_and_not_at_all_where_they_are_off(
    database: Database, start: Start
) -> None:
    server = start()
    assert httpx.get(f"{server.url}/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 404
    assert httpx.get(f"{start(METRICS='false').url}/metrics").status_code == 404


def test_without_their_directory_requests_are_answered_and_metrics_say_why_not(
    database: Database, start: Start, tmp_path: Path
) -> None:
    directory = tmp_path / "file" / "metrics"
    directory.parent.touch()
    server = start(METRICS_DIRECTORY=str(directory))
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    answer = httpx.get(f"{server.url}/metrics")
    reason = f"The metrics of the workers cannot be joined: {directory}: Not a directory."
    assert (answer.status_code, answer.json()["detail"]) == (503, reason)
    wait_until(lambda: server.logged(reason))
    assert server.log.read_text().count(reason) == 1
    directory.parent.unlink()
    wait_until(lambda: server.logged("can be joined again"))
    assert scraped(server)["http_requests_total", "GET", "/metrics", "503"] == 1


def test_files_that_are_damaged_or_locked_stop_neither_requests_nor_what_is_measured(
    database: Database, start: Start, tmp_path: Path
) -> None:
    server = start(METRICS_DIRECTORY=str(tmp_path / "metrics"))
    assert scraped(server)

    def reason() -> str:
        answer = httpx.get(f"{server.url}/metrics")
        assert answer.status_code == 503
        return str(answer.json()["detail"])

    (file,) = tmp_path.glob("metrics/*/lock")
    damaged = file.with_name("ended")
    damaged.write_bytes(b"no such metrics")
    assert "Error: " in reason()
    assert server.logged("Traceback")
    damaged.unlink()
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert reason().endswith("metrics: Another worker has the lock.")
    assert scraped(server)["http_requests_total", "GET", "/metrics", "503"] == 2


def test_a_metric_has_a_limited_number_of_labels() -> None:
    asked = metrics.counter("limit_total", "", ["name", "kind"])
    for number in range(3 * metrics.LIMIT):
        asked.labels(f"name {number}", "x").inc()
    asked.labels(name="name 0", kind="x").inc()
    (family,) = asked.collect()
    values = {one.labels["name"]: one.value for one in family.samples}
    assert len(values) == metrics.LIMIT + 1
    assert (values["name 0"], values[metrics.OTHER]) == (2, 2 * metrics.LIMIT)
    metrics.registry.unregister(asked)


def test_beyond_the_limit_it_is_still_known_which_requests_failed() -> None:
    asked = metrics.counter("failed_total", "", ["route", "status"])
    for number in range(metrics.LIMIT):
        asked.labels(f"/{number}", 200).inc()
    for number in range(3):
        asked.labels(f"/failed/{number}", 500).inc()
    (family,) = asked.collect()
    assert [one.value for one in family.samples if one.labels == {"route": "other", "status": "500"}] == [3]
    metrics.registry.unregister(asked)


def test_the_document_names_every_metric_with_its_type_and_no_other(database: Database, start: Start) -> None:
    about_the_service, _, _ = (ROOT / "docs/metrics.md").read_text().partition("## What the exporter says")
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \|", about_the_service, re.MULTILINE)
    text = httpx.get(f"{start().url}/metrics").text
    exposed = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    assert sorted(documented) == sorted(exposed)
