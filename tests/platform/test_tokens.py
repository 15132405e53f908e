import subprocess
import sys

import pytest

from service.platform.settings import ROOT
from service.platform.token_file import parse_tokens


def make_token(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "quart", "--app", "service.asgi:app", "tokens", "make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "line", ["a count", "a count " + "g" * 64, "A count " + "0" * 64, "a Count " + "0" * 64, "a count: " + "0" * 64]
)
def test_a_malformed_line_is_named_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match="line 3") as raised:
        parse_tokens(f"# tokens\n\n{line}\n")
    assert line not in str(raised.value)


def test_a_token_or_a_name_that_is_there_twice_is_refused() -> None:
    for what, name, digit in ("token", "b", "0"), ("name", "a", "1"):
        with pytest.raises(ValueError, match=f"{what} of line 2"):
            parse_tokens(f"a count {'0' * 64}\n{name} manage {digit * 64}")
    assert len(parse_tokens(f"  # who\n a count {'0' * 64} ; b manage,count {'1' * 64};")) == 2


def test_a_scope_is_for_every_name_or_for_those_with_its_prefix() -> None:
    every, some, none = parse_tokens(
        "\n".join(
            f"{name} {scopes} {digit * 64}"
            for name, scopes, digit in (
                ("every", "write,write:shop-", "0"),
                ("some", "write:shop-,write:b,read", "1"),
                ("none", "read,writes", "2"),
            )
        )
    ).values()
    named = ["", "shop", "shop-", "shop-1", "my-shop-1", "b"]
    assert [every.may("write", name) for name in named] == [True] * 6
    assert [some.may("write", name) for name in named] == [False, False, True, True, False, True]
    assert [none.may("write", name) for name in named] == [False] * 6


def test_a_name_or_scope_that_cannot_be_in_the_file_is_refused(plain_environment: dict[str, str]) -> None:
    own = {"SECRET_KEY": "x" * 16, "DB_HOST": "db.example", "DB_USERNAME": "u", "DB_PASSWORD": "p"}
    for name, scope in ("two words", "count"), ("a", "count things"):
        ended = make_token({**plain_environment, **own}, name, "--scope", scope)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "a name is" in ended.stderr
