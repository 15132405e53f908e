"""A client of Tally in one file, which needs httpx alone: copy it.

It sends each hit with a key, and again with the same key until its number is known.
"""

import random
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

NOT_YET = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
"""The request was not carried out, and may be another time. After any other 5xx, also a proxy's, it may have been."""


class Refused(Exception):
    """The request was not carried out, and would not be the next time.

    `type` is one of docs/counter/api.md, "about:blank" where the answer is another server's.
    """

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.type = kind


class NotAnswered(Exception):
    """No answer within the client's patience.

    `may_have_counted`: then whoever sends `key` again, within 24 h at least, learns the number.
    """

    def __init__(self, key: str | None, *, may_have_counted: bool, reason: str) -> None:
        super().__init__(reason)
        self.key = key
        self.may_have_counted = may_have_counted


@dataclass(frozen=True)
class Counted:
    """The numbers `first` to `number` were given to this key; `replayed`: to an earlier request with it."""

    number: int
    first: int
    receipt: str
    replayed: bool


class Tally:
    """A client, which threads may share. Times are in seconds: of one request, and of all for one answer."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 20.0, patience: float = 60.0) -> None:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self._patience = patience

    def hit(self, name: str, amount: int = 1, *, key: str | None = None) -> Counted:
        """Counts, once for a key, and returns the numbers. Raises Refused or NotAnswered."""
        key = key or uuid.uuid4().hex
        answer = self._answered("POST", f"/counters/{name}/hits", key, json={"amount": amount})
        given = answer.json()
        return Counted(
            given["number"], given["first"], given["receipt"], answer.headers.get("Idempotent-Replayed") == "true"
        )

    def read(self, name: str) -> int:
        """Returns the last number, without counting. Raises Refused or NotAnswered."""
        value: int = self._answered("GET", f"/counters/{name}", None).json()["value"]
        return value

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _answered(self, method: str, path: str, key: str | None, **body: Any) -> httpx.Response:
        """Sends the request until it is answered."""
        headers = {} if key is None else {"Idempotency-Key": key}
        end = time.monotonic() + self._patience
        pause, may_have_counted = 0.1, False
        while True:
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311  # or all clients of a lost replica come at once
            try:
                answer = self._client.request(method, path, headers=headers, **body)
            except httpx.RequestError as error:
                reason = f"{type(error).__name__}: {error}"
                may_have_counted = may_have_counted or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if answer.is_success and _type(answer) == "application/json":
                    return answer
                reason = f"{answer.status_code} {answer.reason_phrase}"
                is_unknown = answer.is_success or (answer.is_server_error and answer.status_code not in NOT_YET)
                may_have_counted = may_have_counted or is_unknown
                if not is_unknown and answer.status_code not in NOT_YET:
                    if may_have_counted:  # by an earlier try, of which this answer says nothing
                        raise NotAnswered(key, may_have_counted=True, reason=reason)
                    raise _refused(answer)
                asked = answer.headers.get("Retry-After", "")
                wait = max(wait, int(asked) if asked.isdecimal() else 0)  # a proxy may send a date
            if time.monotonic() + wait > end:
                raise NotAnswered(key, may_have_counted=may_have_counted, reason=reason)
            time.sleep(wait)
            pause = min(2 * pause, 5.0)


def _refused(answer: httpx.Response) -> Refused:
    if _type(answer) == "application/problem+json":
        problem = answer.json()
        return Refused(answer.status_code, problem["type"], problem["detail"])
    return Refused(answer.status_code, "about:blank", "is this the URL of Tally?")


def _type(answer: httpx.Response) -> str:
    media_type: str = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    return media_type
