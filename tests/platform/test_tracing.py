"""Traces by OpenTelemetry, sent to a receiver of this test's."""

import httpx
import pytest

from harness.processes import stop, wait_until
from harness.receiver import receiver
from harness.traces import spans_in
from tests.conftest import Start

pytestmark = pytest.mark.any_database

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_request_is_a_span_of_the_trace_that_its_client_began(database: object, start: Start) -> None:
    with receiver() as received:
        service = start(
            app="tests.platform.probe:app",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{received.port}",
            OTEL_SERVICE_NAME="a-service",
            APP_VERSION="1.2",
            OTEL_BSP_SCHEDULE_DELAY=3_600_000,  # so that only the worker's end sends them
        )
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine"}
        httpx.get(f"{service.url}/probe/sleep?seconds=0&a=not-to-be-seen", headers=headers)
        httpx.get(f"{service.url}/probe/error", headers=headers)
        httpx.get(f"{service.url}/nowhere?not-to-be-seen", headers=headers)
        stop(service.process)
    found = {span.name: span for span in spans_in(received) if span.trace_id.hex() == TRACE}
    assert set(found) == {"GET /probe/sleep", "GET /probe/error", "GET"}
    for span in found.values():
        assert span.parent_span_id.hex() == PARENT
        assert span.attributes["request_id"] == "mine"
    assert found["GET /probe/sleep"].attributes["http.route"] == "/probe/sleep"
    statuses = [found[name].attributes["http.response.status_code"] for name in sorted(found)]
    assert statuses == [404, 500, 200]
    assert found["GET /probe/error"].is_error
    assert found["GET"].resource["service.name"] == "a-service"
    assert found["GET"].resource["service.version"] == "1.2"
    assert b"not-to-be-seen" not in b"".join(received.bodies["/v1/traces"])


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_it_can_be_turned_off_and_a_receiver_that_is_away_does_no_harm(
    off: dict[str, str], database: object, start: Start
) -> None:
    with receiver() as received:
        address = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{received.port}"}
        service = start(app="tests.platform.probe:app", **off, **address)
        assert httpx.get(f"{service.url}/probe/sleep?seconds=0").status_code == 200
        stop(service.process)
    assert not received.bodies
    away = start(app="tests.platform.probe:app", **address, OTEL_BSP_SCHEDULE_DELAY=50, OTEL_EXPORTER_OTLP_TIMEOUT=0.2)
    assert httpx.get(f"{away.url}/probe/sleep?seconds=0").status_code == 200
    wait_until(lambda: away.logged("opentelemetry.exporter"))
    assert httpx.get(f"{away.url}/probe/sleep?seconds=0").status_code == 200
