import pytest

from harness.compose import Stack, docker

pytestmark = pytest.mark.compose

SENTENCE = "The database has data but its secrets are gone"


@pytest.fixture
def kept(stack: Stack) -> Stack:
    """The stack with something in its database that a test can look for."""
    stack.mysql("CREATE TABLE IF NOT EXISTS kept (word VARCHAR(9)); DELETE FROM kept; INSERT INTO kept VALUES ('🐘')")
    return stack


def test_down_and_up_again_keeps_the_data_and_the_secrets(kept: Stack) -> None:
    before = kept.secret("secret_key")
    kept.compose("down")
    assert not kept.containers("mysql")
    kept.up()
    assert kept.mysql("SELECT word FROM kept") == [["🐘"]]
    assert kept.secret("secret_key") == before


def test_secrets_that_were_lost_beside_data_are_renewed_only_on_demand(kept: Stack) -> None:
    before = kept.secret("secret_key")
    kept.compose("down")
    docker("volume", "rm", f"{kept.project}_secrets")
    assert kept.compose("up", "--detach", check=False).returncode != 0
    assert SENTENCE in kept.compose("logs", "secrets").stdout
    renewed = kept.compose("run", "--rm", "--no-deps", "secrets", "--renew")
    assert "secrets made: secret_key" in renewed.stdout
    kept.up()
    assert kept.status("/livez") == 200
    assert kept.mysql("SELECT word FROM kept") == [["🐘"]]
    assert kept.secret("secret_key") != before
