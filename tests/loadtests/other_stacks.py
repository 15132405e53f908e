"""What holds for every stack that the counter is compared with; without it the comparison would mean nothing."""

import re
import threading
from pathlib import Path

import httpx

from harness.databases import Database
from harness.environments import Stack, serving
from harness.load import get_at_once
from harness.processes import wait_until
from service.platform.settings import ROOT


async def check_counts_each_hit_once(stack: Stack, database: Database, environment: dict[str, str], log: Path) -> None:
    with serving(stack, environment, workers=2, log=log) as url:
        answers = await get_at_once([("127.0.0.1", int(url.rsplit(":")[-1]))], 300, connections=20)
    numbers = [int(re.fullmatch(r"<h1>Counter: (\d+)</h1>", body)[1]) for _, body in answers]  # type: ignore[index]
    assert sorted(numbers) == list(range(1, 301))
    assert database.execute("SELECT count FROM counter WHERE name = 'page'") == [(300,)]


def check_sleeps_with_no_lock_held(stack: Stack, database: Database, environment: dict[str, str], log: Path) -> None:
    with serving(stack, environment, workers=1, log=log, slow=2) as url:
        check_sleep_holds_no_lock(url, database)


def check_sleep_holds_no_lock(url: str, database: Database) -> None:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.get(url, timeout=30).text))
    thread.start()
    wait_until(lambda: any("sleep" in (one["Info"] or "").lower() for one in database.processes()))
    database.execute("UPDATE counter SET count = count + 10 WHERE name = 'page'")  # waits for nobody
    assert not answers
    thread.join()
    assert answers == ["<h1>Counter: 11</h1>"]


def check_is_pinned(name: str) -> None:
    pins = (ROOT / f"requirements/{name}.txt").read_text()
    assert "://" not in pins
    pinned = re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==\S+(?: ; .*)? \\\n    --hash=sha256:", pins, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^\w", pins, re.MULTILINE))
