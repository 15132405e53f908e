"""Every scenario against the whole stack, through nginx, for correctness."""

from collections.abc import Iterator

import httpx
import pytest

from harness.compose import Stack
from service.platform.token_file import line_of
from tests.loadtests.locust_runs import ALL, CLASSES, load

pytestmark = pytest.mark.compose

TOKEN = "a token of the scenarios"


@pytest.fixture
def stack_with_a_token(stack: Stack) -> Iterator[Stack]:
    settings = stack.directory / ".quartenv"
    settings.write_text(f"API_TOKENS={line_of('load', ('count', 'manage'), TOKEN)}\n")
    stack.up()
    yield stack
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        page = "/counters?limit=100"
        while page:
            found = client.get(page).json()
            for name in found["counters"]:
                if name.startswith("load-"):
                    assert client.delete(f"/counters/{name}").status_code == 204
            page = found["next"]
    settings.unlink()
    stack.up()


def test_every_scenario_finds_the_stack_right(stack_with_a_token: Stack) -> None:
    options = ["--token", TOKEN, "--run-time", "10s", "--processes", "2", "--users", "16", "--spawn-rate", "16"]
    options += ["--every", "1"]
    ended = load(ALL, stack_with_a_token.url, *options)
    assert ended.returncode == 0, ended.stdout
    assert "PASSED" in ended.stdout
    for name in CLASSES:
        assert f"\n{name}: 0 requests" not in ended.stdout
        assert f"\n{name}: " in ended.stdout
