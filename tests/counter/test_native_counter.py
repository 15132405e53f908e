"""The counter's promise by `./run up`: through nginx every hit a number of its own, and none lost by stop and start."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from tests.deploy.native import installation
from tests.load import get_at_once

pytestmark = pytest.mark.native


def test_twenty_thousand_hits_on_fifty_connections_get_1_to_20000_and_the_count_goes_on_after_a_stop(
    tmp_path: Path, plain_environment: dict[str, str]
) -> None:
    with installation(tmp_path, plain_environment) as native:
        native.up()
        nginx = "127.0.0.1", int(native.settings["HTTP_PORT"])
        answers = asyncio.run(get_at_once([nginx], 20_000, connections=50))
        assert {status for status, _ in answers} == {200}
        numbers = [int(re.findall(r"Counter: (\d+)", body)[0]) for _, body in answers]
        assert sorted(numbers) == list(range(1, 20_001))
        assert native.interrupt() == 0
        native.up()
        assert httpx.get(native.url).text == "<h1>Counter: 20001</h1>"
