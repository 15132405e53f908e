"""The application through its own Hypercorn, on a real database."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.databases import Database
from service.platform.settings import ROOT
from service.platform.token_file import line_of
from tests.conftest import MakeApp, Start

pytestmark = pytest.mark.any_database

TOKEN = "a token of the tests"
ALLOWED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def client(database: Database, start: Start) -> Iterator[httpx.Client]:
    """A client of a service that takes notes of up to 20 characters, with a token that may write."""
    service = start(API_TOKENS=line_of("tests", ("write",), TOKEN), NOTE_LENGTH=20)
    with httpx.Client(base_url=service.url, headers=ALLOWED) as client:
        yield client


def test_a_note_that_was_written_is_read_alone_and_by_pages(client: httpx.Client) -> None:
    written = [client.post("/notes", json={"text": f"note {number} 🐘"}) for number in range(3)]
    assert [one.status_code for one in written] == [201] * 3
    assert client.get(written[1].headers["Location"]).json() == written[1].json()
    first = client.get("/notes", params={"limit": 2}).json()
    second = client.get(first["next"]).json()
    assert first["notes"] + second["notes"] == [one.json() for one in written]
    assert second["next"] is None
    assert "\nnotes_written_total 3.0\n" in client.get("/metrics").text


def test_who_writes_needs_a_token_with_the_scope(client: httpx.Client) -> None:
    refused = client.post("/notes", json={"text": "a"}, headers={"Authorization": "Bearer another"})
    assert (refused.status_code, refused.json()["type"]) == (401, "/problems/token-unknown")
    assert client.get("/notes", headers={"Authorization": ""}).json()["notes"] == []


def test_a_note_that_cannot_be_taken_is_told_and_not_written(client: httpx.Client) -> None:
    for text, status, kind in (
        ("b" * 21, 422, "note-too-long"),
        ("", 400, "malformed-body"),
        (None, 400, "malformed-body"),
    ):
        refused = client.post("/notes", json={"text": text})
        assert (refused.status_code, refused.json()["type"]) == (status, f"/problems/{kind}")
    assert client.get("/notes").json()["notes"] == []


def test_what_is_not_there_or_cannot_be_asked_is_told(client: httpx.Client) -> None:
    for path in "/notes/1", "/notes/one":
        assert client.get(path).json()["type"] == "/problems/no-such-note"
    malformed = client.get("/notes?limit=101").json()
    assert malformed["type"] == "/problems/malformed-parameter"
    assert "1 to 100" in malformed["detail"]


def test_the_api_describes_itself(client: httpx.Client) -> None:
    assert set(client.get("/openapi.json").json()["paths"]) == {"/notes", "/notes/{note}"}
    for asset in "/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js":
        assert client.get(asset).status_code == 200


def test_a_command_deletes_old_notes(client: httpx.Client, database: Database, environment: dict[str, str]) -> None:
    for text in "old", "new":
        client.post("/notes", json={"text": text})
    database.execute("UPDATE notes SET created_at = created_at - INTERVAL 3 DAY WHERE text = 'old'")
    command = [sys.executable, "-m", "quart", "--app", "service.asgi:app", "notes", "prune", "2"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "1 notes deleted\n"), ended.stderr
    assert [note["text"] for note in client.get("/notes").json()["notes"]] == ["new"]


async def test_a_job_deletes_old_notes(database: Database, make_app: MakeApp) -> None:
    app = make_app(NOTE_DAYS=2)
    database.execute(
        "INSERT INTO notes (text, created_at) VALUES ('old', UTC_TIMESTAMP(6) - INTERVAL 3 DAY), ('new', now(6))"
    )
    async with app.test_app():
        (job,) = app.extensions["jobs"]
        await job.run()
    assert database.execute("SELECT text FROM notes") == [("new",)]


def test_a_load_run_ends_with_0_unless_it_misses_a_threshold(client: httpx.Client, tmp_path: Path) -> None:
    own = tmp_path / "thresholds.toml"
    locust = [sys.executable, "-m", "locust", "-f", "loadtests/scenarios/notes.py", "--host", str(client.base_url)]
    options = ["--headless", "--users", "2", "--run-time", "2s", "--token", TOKEN, "--thresholds", str(own)]
    for p99, status in ("60000", 0), ("0", 1):
        own.write_text(f"[Notes]\np99 = {p99}\nerrors = 0.0\n")
        ended = subprocess.run([*locust, *options], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == status, ended.stdout + ended.stderr
