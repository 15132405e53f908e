"""Tokens in the database: what a worker knows of them, and what it answers while the database does not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
from click.testing import Result
from quart import Response
from sqlalchemy import event

from harness.databases import Database
from harness.processes import Hypercorn, is_ready, wait_until
from harness.proxy import Cut, Moment, proxy
from service.platform import known_tokens
from service.platform.app import App
from service.platform.token_file import digest, line_of
from service.platform.tokens import require_token
from tests.conftest import MakeApp, Start

UNKNOWN = "a token that nobody made"
ELSEWHERE = "a token of API_TOKENS"
SHORT = {"DB_CONNECT_TIMEOUT": 1, "DB_LOCK_TIMEOUT": 1, "DB_STATEMENT_TIMEOUT": 2}

Ask = Callable[[str], Awaitable[tuple[int, str]]]


def tokens(app: App, *arguments: str) -> Result:
    """Runs `quart tokens` in this process."""
    result: Result = app.test_cli_runner().invoke(args=["tokens", *arguments])
    return result


def insert(database: Database, name: str, changes: str = "") -> str:
    """Writes a token with the scope `read` to the table, and then changes its row; returns it."""
    token = f"the token {name}"
    database.execute(
        "INSERT INTO api_token (name, hash, scopes, created_at) VALUES (%s, %s, 'read', UTC_TIMESTAMP(6))",
        *(name, bytes.fromhex(digest(token))),
    )
    if changes:
        database.execute(f"UPDATE api_token SET {changes} WHERE name = %s", name)
    return token


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[Ask]:
    """Serves the application with a route that needs a token; gives what asks it for status and body."""

    @app.get("/needs-a-token")
    async def needs_a_token() -> Response:
        token = await require_token("read")
        return Response(token.name if token else "")

    async def ask(token: str) -> tuple[int, str]:
        answer = await app.test_client().get("/needs-a-token", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code in {401, 403}) == (answer.headers.get("WWW-Authenticate") == "Bearer")
        assert (answer.status_code == 503) == ("Retry-After" in answer.headers)
        return answer.status_code, await answer.get_data(as_text=True)

    async with app.test_app():
        yield ask


@contextmanager
def statements(app: App) -> Iterator[list[str]]:
    """Gives a list to which the first word of each statement on the table is added while the application serves."""
    found: list[str] = []

    @event.listens_for(app.extensions["engine"].sync_engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "api_token" in statement:
            found.append(statement.split(maxsplit=1)[0])

    yield found


async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when the condition holds; fails after 30 s."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


def statuses(service: Hypercorn, token: str) -> dict[str, str]:
    """Returns how each worker that was met answers the token."""
    headers = {"Authorization": f"Bearer {token}"}
    # Each request has a connection of its own, so that the workers take turns.
    return dict(httpx.get(f"{service.url}/probe/token/read", headers=headers).text.split() for _ in range(12))


def test_a_token_is_made_and_revoked_in_all_workers_without_a_restart(
    database: Database, start: Start, make_app: MakeApp
) -> None:
    service = start(app="tests.platform.probe:app", workers=2)
    app = make_app()
    wait_until(lambda: list(statuses(service, UNKNOWN).values()) == ["401", "401"])
    made = tokens(app, "make", "somebody", "--scope", "read")
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    wait_until(lambda: list(statuses(service, token).values()) == ["200", "200"])
    wait_until(lambda: "never" not in tokens(app, "list").stdout)
    assert tokens(app, "revoke", "somebody").exit_code == 0
    wait_until(lambda: list(statuses(service, token).values()) == ["401", "401"])
    log = service.log.read_text()
    assert not [one for one in (token, digest(token), "Traceback", '"level": "error"') if one in log]


async def test_one_that_is_revoked_expired_or_unknown_is_answered_alike(database: Database, make_app: MakeApp) -> None:
    revoked = insert(database, "revoked", "revoked_at = UTC_TIMESTAMP(6)")
    expired = insert(database, "expired", "expires_at = UTC_TIMESTAMP() - INTERVAL 1 SECOND")
    valid = insert(database, "valid", "expires_at = '9999-12-31'")
    unable = insert(database, "unable", "scopes = 'reading,write'")
    async with serving(make_app()) as ask:
        answers = [await ask(token) for token in (revoked, expired, UNKNOWN, "")]
        assert {status for status, _ in answers} == {401}
        assert len({body for _, body in answers}) == 1
        assert await ask(valid) == (200, "valid")
        assert (await ask(unable))[0] == 403


@pytest.mark.any_database
async def test_a_token_ends_when_its_time_has_come_whether_or_not_the_table_is_read_again(
    database: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_tokens, "INTERVAL", 3600.0)
    token = insert(database, "short", "expires_at = UTC_TIMESTAMP() + INTERVAL 6 SECOND")
    app = make_app()
    async with serving(app) as ask:
        assert (await ask(token))[0] == 200
        with statements(app) as executed:

            async def has_ended() -> bool:
                return (await ask(token))[0] == 401

            await wait(has_ended)
        assert "SELECT" not in executed


@pytest.mark.any_database
async def test_a_flood_of_unknown_tokens_shares_a_query_and_requests_without_one_need_none(
    database: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_tokens, "INTERVAL", 3600.0)
    valid = insert(database, "valid")
    app = make_app()
    async with serving(app) as ask:
        with statements(app) as executed:
            assert (await app.test_client().get("/needs-a-token")).status_code == 401
            assert executed == []
            answers = await asyncio.gather(*(ask(f"{UNKNOWN} {number}") for number in range(100)), ask(valid))
            answers += [await ask(f"{UNKNOWN} {number}") for number in range(100)]
            assert [status for status, _ in answers].count(401) == 200
            assert executed.count("SELECT") == 1
            monkeypatch.setattr(known_tokens, "INTERVAL", 0.0)  # the next reading is due
            assert (await ask(UNKNOWN))[0] == 401
            assert executed.count("SELECT") == 2


@pytest.mark.any_database
async def test_what_a_worker_knows_for_too_long_is_read_again_before_it_answers(
    database: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "INTERVAL", "FRESH":
        monkeypatch.setattr(known_tokens, name, 0.0)
    async with serving(make_app()) as ask:
        assert (await ask("the token new"))[0] == 401
        token = insert(database, "new")
        assert (await ask(token))[0] == 200
        database.execute("UPDATE api_token SET revoked_at = UTC_TIMESTAMP()")
        assert (await ask(token))[0] == 401


async def test_the_day_of_the_last_use_is_written_once(database: Database, make_app: MakeApp) -> None:
    token = insert(database, "used", "last_used_on = UTC_DATE() - INTERVAL 1 DAY")
    insert(database, "unused")

    async def is_written() -> bool:
        return database.execute("SELECT name FROM api_token WHERE last_used_on = UTC_DATE()") == [("used",)]

    app = make_app()
    async with serving(app) as ask:
        with statements(app) as executed:
            assert {(await ask(token))[0] for _ in range(20)} == {200}
            await wait(is_written)

            async def is_read_again() -> bool:
                await ask(token)
                return executed.count("SELECT") == 2

            await wait(is_read_again)
            assert executed.count("UPDATE") == 1
            database.execute("UPDATE api_token SET last_used_on = '2026-01-01' WHERE name = 'used'")  # another day

            async def is_written_again() -> bool:
                await ask(token)
                return await is_written()

            await wait(is_written_again)
            assert executed.count("UPDATE") == 2


@pytest.mark.any_database
async def test_a_use_whose_day_could_not_be_written_is_answered_and_written_later(
    database: Database, make_app: MakeApp
) -> None:
    token = insert(database, "used")
    app = make_app(**SHORT)
    async with serving(app) as ask:
        with database.server.connect(database=database.name) as other, other.cursor() as cursor:
            other.begin()
            cursor.execute("SELECT * FROM api_token FOR UPDATE")
            assert await ask(token) == (200, "used")
            async with asyncio.timeout(30):
                await asyncio.gather(*app.background_tasks)
            assert database.execute("SELECT last_used_on FROM api_token") == [(None,)]

        async def is_written() -> bool:
            await ask(token)
            return database.execute("SELECT 1 FROM api_token WHERE last_used_on = UTC_DATE()") != []

        await wait(is_written)


@pytest.mark.any_database
@pytest.mark.parametrize("moment", ["before", "silent"])
async def test_without_the_database_known_tokens_stay_valid_for_a_while_and_no_other_is_called_unknown(
    moment: Moment, database: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"INTERVAL": 0.1, "FRESH": 0.2, "TIMEOUT": 0.1}.items():
        monkeypatch.setattr(known_tokens, name, value)
    known = insert(database, "known")
    revoked = insert(database, "revoked", "revoked_at = UTC_TIMESTAMP()")
    async with proxy(database.server.port) as way:
        app = make_app(DB_PORT=way.port, API_TOKENS=line_of("elsewhere", ("read",), ELSEWHERE), **SHORT)
        async with serving(app) as ask:

            async def is_known() -> bool:  # it may take longer than TIMEOUT
                return await ask(known) == (200, "known")

            async def is_refused() -> bool:
                return (await ask(revoked))[0] == 401

            await wait(is_known)
            await wait(is_refused)
            way.cuts += [Cut("api_token", moment) for _ in range(100)]

            async def cannot_be_known() -> bool:
                return (await ask(UNKNOWN))[0] == 503

            await wait(cannot_be_known)
            reading = app.extensions["tokens"]
            asked = len(way.cuts)

            async def is_not_fresh() -> bool:
                assert await ask(known) == (200, "known")
                now = asyncio.get_running_loop().time()
                return bool(now > reading._read_at + known_tokens.FRESH and len(way.cuts) < asked - 1)

            await wait(is_not_fresh)
            assert {(await ask(token))[0] for token in (revoked, UNKNOWN, "")} == {503}
            assert "/problems/unavailable" in (await ask(UNKNOWN))[1]
            monkeypatch.setattr(known_tokens, "KEPT", 0.2)
            assert (await ask(known))[0] == 503
            assert await ask(ELSEWHERE) == (200, "elsewhere")
            way.cuts.clear()

            await wait(is_known)
            await wait(is_refused)


@pytest.mark.any_database
def test_a_worker_whose_database_lacks_the_table_is_not_ready(database: Database, start: Start) -> None:
    service = start(app="tests.platform.probe:app")
    database.execute("RENAME TABLE api_token TO elsewhere")
    wait_until(lambda: not is_ready(service))
    assert "error 1146" in httpx.get(f"{service.url}/readyz").json()["detail"]
    headers = {"Authorization": f"Bearer {UNKNOWN}"}
    wait_until(lambda: httpx.get(f"{service.url}/probe/token/read", headers=headers).status_code == 503)
    database.execute("RENAME TABLE elsewhere TO api_token")
    wait_until(lambda: is_ready(service))
    wait_until(lambda: httpx.get(f"{service.url}/probe/token/read", headers=headers).text.split()[-1] == "401")
