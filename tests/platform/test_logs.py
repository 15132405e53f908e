"""The service's log: one JSON object a line, about the request that it belongs to, whatever a client sends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.databases import Database, DatabaseServer, new_database
from harness.processes import Hypercorn, is_ready, ready_hypercorn, wait_until
from service.platform.settings import ROOT
from tests.conftest import SECRET_KEY, MakeTables
from tests.platform.test_requests import raw

pytestmark = pytest.mark.any_database


@pytest.fixture(scope="module")
def service(
    server: DatabaseServer,
    make_tables: MakeTables,
    plain_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Hypercorn, Database]]:
    """The probe, and its database."""
    with new_database(server) as database:
        make_tables(database)
        environment = {**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY, "APP_VERSION": "1.2"}
        log = tmp_path_factory.mktemp("service") / "log"
        with ready_hypercorn(environment, log, app="tests.platform.probe:app", workers=1) as running:
            yield running, database


def lines(service: Hypercorn) -> list[dict[str, Any]]:
    """Returns the log's lines. Each must be JSON in UTF-8, without half a pair of surrogates."""
    read = [json.loads(line) for line in service.log.read_bytes().decode().splitlines()]
    json.dumps(read, ensure_ascii=False).encode()
    return read


def test_a_line_of_a_request_says_which_and_how_long_it_took_so_far(service: tuple[Hypercorn, Database]) -> None:
    httpx.get(f"{service[0].url}/probe/sleep?seconds=0.01", headers={"X-Request-ID": "mine"})
    (line,) = (line for line in lines(service[0]) if line["event"] == "sleeps for 0.01 seconds")
    assert list(line)[:3] == ["time", "level", "event"]
    assert (line["level"], line["logger"], line["version"]) == ("info", "tests.platform.probe", "1.2")
    assert (line["request_id"], line["method"], line["route"]) == ("mine", "GET", "/probe/sleep")
    assert line["worker"] in {worker.pid for worker in service[0].workers()}
    assert line["seconds"] >= 0
    assert line["time"].endswith("Z")


def test_bytes_that_are_no_utf_8_are_logged_as_json(service: tuple[Hypercorn, Database]) -> None:
    sent = bytes(range(128, 256))
    for target in b"/probe/sleep?%ff=%ff", b"/probe/error", b"/probe/%ff%ed%a0%80", b"/" + sent:
        head = b"GET %b HTTP/1.1\r\nHost: x\r\nUser-Agent: %b\r\nX-Request-ID: %b\r\nConnection: close\r\n\r\n"
        raw(service[0], head % (target, sent, sent))
    (line,) = (line for line in lines(service[0]) if line["event"] == "sleeps for 0 seconds")
    assert line["route"] == "/probe/sleep"
    assert "request_id" not in line


def test_any_text_is_one_line_of_json() -> None:
    texts = ["\udcff", "a\ud800b", "\U0001f600", "ä\x00\x1b[0m\n"]
    program = (
        "from service.platform import logs; logs.configure('INFO', json=True); "
        f"[logs.logging.info(text) for text in {texts!a}]"
    )
    written = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stderr
    found = [json.loads(line)["event"] for line in written.splitlines()]
    assert found == [text.encode("utf-8", "replace").decode() for text in texts]


def test_no_query_is_logged(service: tuple[Hypercorn, Database]) -> None:
    httpx.get(f"{service[0].url}/probe/error?token=a-value-of-a-query")
    httpx.get(f"{service[0].url}/nowhere?token=a-value-of-a-query")
    assert not service[0].logged("a-value-of-a-query")


def test_a_line_about_the_worker_has_no_request_id_whoever_asked(service: tuple[Hypercorn, Database]) -> None:
    running, database = service
    database.execute("RENAME TABLE alembic_version TO elsewhere")
    try:
        wait_until(lambda: httpx.get(f"{running.url}/readyz", headers={"X-Request-ID": "asks"}).status_code == 503)
    finally:
        database.execute("RENAME TABLE elsewhere TO alembic_version")
    wait_until(lambda: is_ready(running))
    said = [line for line in lines(running) if line["event"].startswith(("not ready", "ready"))]
    assert len(said) >= 3
    assert not [line for line in said if "request_id" in line or "route" in line]


def test_a_background_task_is_not_of_the_request_that_began_it(service: tuple[Hypercorn, Database]) -> None:
    httpx.post(f"{service[0].url}/probe/background/work", headers={"X-Request-ID": "begins"})
    wait_until(lambda: service[0].logged("work is done"))
    (line,) = (line for line in lines(service[0]) if line["event"] == "work is done")
    assert "request_id" not in line


def test_a_flood_of_one_error_is_one_line(service: tuple[Hypercorn, Database]) -> None:
    before = len(lines(service[0]))
    for _ in range(20):
        assert httpx.get(f"{service[0].url}/probe/query?sql=no+SQL").status_code == 500
    assert len(lines(service[0])) - before == 1


def test_on_a_terminal_lines_are_for_people(environment: dict[str, str], tmp_path: Path) -> None:
    """`script` gives the program a terminal."""
    program = "import logging, service.asgi; logging.warning('a line')"
    ended = subprocess.run(
        ["script", "--quiet", "--return", "--command", f'{sys.executable} -c "{program}"', tmp_path / "typescript"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "TERM": "dumb"},
    )
    assert ended.returncode == 0
    assert "a line" in ended.stdout
    assert "{" not in ended.stdout
