"""How a deploy without Docker turns nginx to a new release: by the link through which it connects."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from harness.databases import Database
from harness.load import get_at_once
from harness.nginx import nginx
from harness.processes import hypercorn, stop

pytestmark = [pytest.mark.nginx, pytest.mark.any_database]


def test_no_request_fails_when_nginx_connects_elsewhere_and_the_former_server_leaves(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    current, old, new = (tmp_path / name for name in ("current", "old", "new"))
    current.symlink_to(old)
    told = {**environment, "SHUTDOWN_DELAY": "2"}  # longer than nginx keeps its connections

    async def send(port: int) -> list[tuple[int, str]]:
        with hypercorn(told, tmp_path / "new.log", unix_socket=new, workers=1):
            turning = asyncio.create_task(asyncio.to_thread(turn))
            answers = await get_at_once([("127.0.0.1", port)], 16, 16, until=turning)
            await turning
            return answers + await get_at_once([("127.0.0.1", port)], 16, 16)

    def turn() -> None:
        (tmp_path / "next").symlink_to(new)
        (tmp_path / "next").rename(current)
        stop(former.process)

    with (
        hypercorn(told, tmp_path / "old.log", unix_socket=old, workers=1) as former,
        nginx(tmp_path / "nginx", f"unix:{current}", edit={"keepalive_timeout 4s": "keepalive_timeout 1s"}) as proxy,
    ):
        answers = asyncio.run(send(proxy.port))
    assert Counter(status for status, _ in answers) == {200: len(answers)}
    assert len(set(answers)) == len(answers)
