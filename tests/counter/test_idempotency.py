from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from harness.databases import Database
from tests.conftest import Start
from tests.counter.audit import audit
from tests.counter.page import number_in

pytestmark = pytest.mark.any_database


def test_a_key_from_a_hundred_clients_at_once_on_all_workers_is_counted_once(database: Database, start: Start) -> None:
    services = [start(workers=2), start()]

    def hit(i: int) -> httpx.Response:
        return httpx.get(services[i % 2].url, headers={"Idempotency-Key": '"the same"'}, timeout=30)

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(hit, range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert {number_in(answer.text) for answer in answers} == {1}
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == ["", *["true"] * 99]
    assert audit(database) == 1
    assert number_in(httpx.get(services[0].url).text) == 2


def test_a_malformed_key_is_answered_400_and_not_counted(database: Database, start: Start) -> None:
    service = start(workers=1)
    headers = {"Idempotency-Key": "two words", "Accept": "application/json"}
    answer = httpx.get(service.url, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-key")
    assert audit(database) == 0


def test_the_last_number_is_given_and_none_after_it(database: Database, start: Start) -> None:
    service = start(workers=1)
    database.execute("UPDATE counter SET count = 9007199254740990, start = 9007199254740990")
    assert number_in(httpx.get(service.url).text) == 2**53 - 1
    answer = httpx.get(service.url, headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/counter-full")
    assert audit(database) == 2**53 - 1
