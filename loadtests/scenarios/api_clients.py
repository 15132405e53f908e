"""Clients of the API send each hit with a key, and again with the same key until they know its number."""

import random
import uuid

from locust import constant, task
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential_jitter

from loadtests.checks.ledger import KEY_CONFLICT
from loadtests.checks.numbers import LEDGER
from loadtests.checks.users import Hitter, number_of

COUNTER = "load-api-clients"
ATTEMPTS = 10
REPEATED = 0.1
"""The share of keys that are sent once more although their number is known."""


class ApiClients(Hitter):
    """Programs that hit a named counter by POST, with an Idempotency-Key and retries."""

    wait_time = constant(0)
    counters = (COUNTER,)

    @task
    def hit_with_a_key(self) -> None:
        key = uuid.uuid4().hex
        floor = self.highest.get(COUNTER, -1)
        LEDGER.record_sent(COUNTER)
        number = self._until_known(key)
        if number is None:
            return
        self.highest[COUNTER] = number
        LEDGER.record_number(COUNTER, number, floor)
        if random.random() < REPEATED and self._until_known(key) not in {number, None}:  # noqa: S311  # nothing secret
            LEDGER.record_violation(KEY_CONFLICT)

    def _until_known(self, key: str) -> int | None:
        """Sends the hit until it has a number; returns None if it has none after all attempts."""
        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(initial=0.1, max=2),
            retry=retry_if_result(lambda number: number is None),
            retry_error_callback=lambda _state: None,
        )
        return attempts(self._try, key)

    def _try(self, key: str) -> int | None:
        with self.ask_for_number(COUNTER, key) as response:
            return number_of(response)
