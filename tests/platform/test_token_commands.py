"""`quart tokens make`, `list` and `revoke`, run in this process on a real database."""

from datetime import UTC, datetime, timedelta

import pytest

from harness.databases import Database
from service.platform import token_commands
from service.platform.token_file import digest, line_of
from tests.conftest import MakeApp
from tests.platform.test_tokens_in_database import insert, tokens

pytestmark = pytest.mark.any_database

TODAY = datetime.now(UTC).date()


def test_a_token_is_shown_once_and_only_its_hash_is_kept(database: Database, make_app: MakeApp) -> None:
    app = make_app()
    made = tokens(app, "make", "ci", "--scope", "write", "--scope", "read,write", "--until", str(TODAY))
    assert made.exit_code == 0, made.output
    (token,) = made.stdout.split()
    assert len(token) == 43
    assert "shown only now" in made.stderr
    ((name, hashed, scopes, end),) = database.execute("SELECT name, hash, scopes, expires_at FROM api_token")
    assert (name, hashed.hex(), scopes) == ("ci", digest(token), "read,write")
    assert end.date() == TODAY + timedelta(days=1)
    listed = tokens(app, "list")
    assert "ci    read,write  valid" in listed.stdout
    assert token not in listed.output + made.stderr
    assert digest(token) not in listed.output + made.output


def test_the_list_is_sorted_by_name_and_tells_the_state_and_the_last_use(database: Database, make_app: MakeApp) -> None:
    insert(database, "revoked", "revoked_at = '2026-02-01', expires_at = '2026-03-01', created_at = '2026-01-01'")
    insert(database, "expired", "expires_at = '2026-02-01', last_used_on = '2026-01-31', created_at = '2026-01-01'")
    insert(database, "a-valid-one", "expires_at = '2099-01-01', created_at = '2026-01-01'")
    listed = tokens(make_app(API_TOKENS=line_of("of-the-file", ("write", "read"), "a token")), "list")
    assert listed.exit_code == 0
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["name", "scopes", "state", "made", "until", "last", "use", "kept", "in"],
        ["a-valid-one", "read", "valid", "2026-01-01", "2098-12-31", "never", "database"],
        ["expired", "read", "expired", "2026-01-01", "2026-01-31", "2026-01-31", "database"],
        ["of-the-file", "read,write", "valid", "API_TOKENS"],
        ["revoked", "read", "revoked", "2026-01-01", "2026-02-28", "never", "database"],
    ]
    assert len({line.index(" read") for line in listed.stdout.splitlines()[1:]}) == 1


def test_a_name_that_is_taken_is_refused_also_where_its_token_is_revoked(database: Database, make_app: MakeApp) -> None:
    insert(database, "taken", "revoked_at = UTC_TIMESTAMP()")
    app = make_app(API_TOKENS=line_of("of-the-file", ("read",), "a token"))
    for name, where in ("taken", "in the database"), ("of-the-file", "in API_TOKENS"):
        refused = tokens(app, "make", name, "--scope", "read")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert refused.stderr == f"Error: There is a token {name} {where} already: choose another name.\n"
    assert len(database.execute("SELECT 1 FROM api_token")) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["two words", "--scope", "read"], "a name is"),
        (["a", "--scope", "read,"], "a scope is"),
        (["a", "--scope", "r" * 256], "255 characters"),
        (["a"], "--scope"),
        (["a", "--scope", "read", "--until", str(TODAY - timedelta(days=1))], "today (in UTC) or later"),
        (["a", "--scope", "read", "--until", "9999-12-31"], "before the end of 9999"),
        (["a", "--scope", "read", "--until", "tomorrow"], "'%Y-%m-%d'"),
        (["a", "--scope", "read", "--until", "2099-01-01", "--print-only"], "has no end"),
    ],
)
def test_what_cannot_be_a_token_is_refused_before_the_database_is_asked(
    arguments: list[str], named: str, empty_database: Database, make_app: MakeApp
) -> None:
    refused = tokens(make_app(DB_PORT=1), "make", *arguments)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert named in refused.stderr


def test_no_more_tokens_are_made_than_workers_are_to_read(
    database: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_commands, "MOST", 2)
    app = make_app()
    insert(database, "revoked", "revoked_at = UTC_TIMESTAMP()")
    assert [tokens(app, "make", f"t{number}", "--scope", "read").exit_code for number in range(3)] == [0, 0, 1]
    assert len(database.execute("SELECT 1 FROM api_token")) == 3


def test_revoking_again_changes_nothing_and_another_name_is_an_error(database: Database, make_app: MakeApp) -> None:
    insert(database, "known")
    app = make_app(API_TOKENS=line_of("of-the-file", ("read",), "a token"))
    first = tokens(app, "revoke", "known")
    assert (first.exit_code, "known is revoked" in first.stdout) == (0, True)
    before = database.execute("SELECT * FROM api_token")
    again = tokens(app, "revoke", "known")
    assert (again.exit_code, again.stdout) == (0, "known was revoked before.\n")
    assert database.execute("SELECT * FROM api_token") == before
    for name, reason in ("Known", "There is no token Known"), ("of-the-file", "take its line out"):
        refused = tokens(app, "revoke", name)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert reason in refused.stderr


@pytest.mark.parametrize("command", [["make", "a", "--scope", "read"], ["list"], ["revoke", "a"]])
def test_a_database_that_is_away_or_lacks_the_table_is_said(
    command: list[str], empty_database: Database, make_app: MakeApp
) -> None:
    for app in make_app(), make_app(DB_PORT=1):
        failed = tokens(app, *command)
        assert (failed.exit_code, failed.stdout) == (69, "")
        assert failed.stderr.startswith("The database cannot be used: (")
        assert len(failed.stderr.splitlines()) == 1
