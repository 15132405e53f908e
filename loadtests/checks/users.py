"""The base class of the scenarios' users: sends hits, and checks their answers."""

import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import ClassVar

from geventhttpclient import client as geventhttpclient
from locust import FastHttpUser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtests.checks.numbers import LEDGER, NUMBER, PAGE_COUNTER
from loadtests.verdict import refused_name, token_header

# geventhttpclient 2.6 sends a GET again whose connection was closed, without a word. Here a GET counts.
assert geventhttpclient._may_retry_after_send_error("GET")
geventhttpclient._may_retry_after_send_error = lambda method: False  # noqa: ARG005


class Hitter(FastHttpUser):
    """A user who hits counters. Its requests are named `<scenario>: <what>` in Locust's statistics."""

    abstract = True
    network_timeout = 30.0
    connection_timeout = 30.0
    counters: ClassVar[Sequence[str]] = (PAGE_COUNTER,)
    """Those that are hit."""
    refusals_are_failures = True
    """Whether a 503, which says that nothing was counted, is a failure."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.highest: dict[str, int] = {}
        """The highest number that this user was given, by counter."""

    def hit(self, counter: str = PAGE_COUNTER, *, due: float | None = None) -> int | None:
        """Sends one hit and checks what it is answered; returns its number, None if it was given none.

        `due`: the time.perf_counter() at which it should have been sent, from which its latency is then counted.
        """
        floor = self.highest.get(counter, -1)
        LEDGER.record_sent(counter)
        with self.ask_for_number(counter, None) as response:
            if due is not None:
                response.request_meta["response_time"] = (time.perf_counter() - due) * 1000
            number = number_of(response)
            if number is not None:
                self.highest[counter] = max(number, self.highest.get(counter, -1))
                if violation := LEDGER.record_number(counter, number, floor):
                    response.failure(violation)
            elif is_refused(response):
                LEDGER.record_refused(counter)
                if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE and not self.refusals_are_failures:
                    response.request_meta["name"] = f"{refused_name(type(self).__name__)}: hit"
                    response.success()
            elif HTTPStatus.OK <= response.status_code < HTTPStatus.BAD_REQUEST:
                response.failure("an answer without a number")
        return number

    def ask_for_number(self, counter: str, key: str | None) -> ResponseContextManager:
        """Sends the request of a hit, with an Idempotency-Key or none."""
        headers = {"Idempotency-Key": key} if key else {}
        if counter == PAGE_COUNTER:
            return self.client.get("/", headers=headers, name=self.label("hit"), catch_response=True)
        return self.api("POST", f"/counters/{counter}/hits", "hit", headers)

    def api(self, method: str, path: str, what: str, headers: dict[str, str] | None = None) -> ResponseContextManager:
        """Sends a request of the counters' API."""
        own = {**token_header(self.environment), **(headers or {})}
        return self.client.request(method, path, headers=own, name=self.label(what), catch_response=True)

    def label(self, what: str) -> str:
        """Returns the name of a kind of request in Locust's statistics."""
        return f"{type(self).__name__}: {what}"


def number_of(response: ResponseContextManager) -> int | None:
    """Returns the number that a hit was answered with."""
    if response.status_code != HTTPStatus.OK:
        return None
    text = response.text or ""
    page = NUMBER.fullmatch(text)
    if page is not None:
        return int(page[1])
    return int(response.json()["number"]) if text.startswith("{") else None


def is_refused(response: ResponseContextManager) -> bool:
    """Whether the answer promises that nothing was counted."""
    status = response.status_code
    return 400 <= status < 500 or status == HTTPStatus.SERVICE_UNAVAILABLE
