"""Errors are sent to Sentry where SENTRY_DSN is set: to a receiver of this test's."""

import json
import subprocess
import sys

import httpx
import pytest

from harness.processes import wait_until
from harness.receiver import Receiver, receiver
from service.platform.settings import ROOT
from tests.conftest import Start

pytestmark = pytest.mark.any_database

PATH = "/api/7/envelope/"


def events(received: Receiver) -> list[dict[str, object]]:
    """Returns the events of the envelopes: lines, of which the third is the event."""
    return [json.loads(envelope.splitlines()[2]) for envelope in received.bodies.get(PATH, [])]


def test_an_error_is_reported_once_with_the_request_and_nothing_that_may_be_secret(
    database: object, start: Start
) -> None:
    with receiver() as received:
        service = start(
            app="tests.platform.probe:app", SENTRY_DSN=f"http://key@127.0.0.1:{received.port}/7", APP_VERSION="1.2"
        )
        for _ in range(3):
            answered = httpx.get(
                f"{service.url}/probe/error?a=not-to-be-seen",
                headers={"X-Request-ID": "mine", "Authorization": "Bearer not-to-be-seen", "Cookie": "not-to-be-seen"},
            )
            assert answered.status_code == 500
        wait_until(lambda: received.bodies.get(PATH))
    (event,) = events(received)
    assert event["tags"] == {"request_id": "mine", "method": "GET"}
    assert (event["transaction"], event["release"], event["level"]) == ("/probe/error", "1.2", "error")
    assert "the secret of the traceback" in json.dumps(event["exception"])
    assert b"not-to-be-seen" not in received.bodies[PATH][0]
    assert '"vars"' not in json.dumps(event)


def test_without_its_settings_neither_sentry_nor_opentelemetry_is_imported(environment: dict[str, str]) -> None:
    program = (
        "import sys, service.asgi; print([name for name in sys.modules if name.startswith(('sentry', 'opentel'))])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_a_malformed_dsn_stops_the_start_without_its_value(environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import service.asgi"],
        cwd=ROOT,
        env={**environment, "SENTRY_DSN": "https://the-key"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "SENTRY_DSN" in ended.stderr
    assert "the-key" not in ended.stderr
