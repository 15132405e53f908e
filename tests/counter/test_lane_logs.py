"""What is logged while hits cannot be counted: what is of one request says of which, and there is no flood."""

import json

import httpx
import pytest

from harness.databases import Database
from harness.processes import stop
from tests.conftest import Start

pytestmark = pytest.mark.any_database


def test_a_lanes_line_has_no_request_id_and_many_failures_are_few_lines(database: Database, start: Start) -> None:
    service = start()
    database.execute("RENAME TABLE receipt TO elsewhere")
    with httpx.Client(base_url=service.url, headers={"Accept": "application/json"}) as client:
        for number in range(50):
            answer = client.get("/", headers={"X-Request-ID": f"request-{number}"})
            assert (answer.status_code, answer.json()["request_id"]) == (503, f"request-{number}")
    stop(service.process)
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    of_lane = [line for line in lines if line["logger"] == "service.counter.lane"]
    of_requests = [line for line in lines if line["event"].startswith("answered 503")]
    assert len(of_lane) == 2  # the first, and how many there were
    assert "request_id" not in of_lane[0]
    assert [line["request_id"] for line in of_requests] == ["request-0"]
    last = [line for line in lines if line["event"].startswith("lasts: ")]
    assert [line["times"] for line in last] == [50, 50]
