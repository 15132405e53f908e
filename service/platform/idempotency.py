"""The Idempotency-Key header of the IETF's draft (draft-ietf-httpapi-idempotency-key-header)."""

import re
from http import HTTPStatus

from werkzeug.datastructures import Headers

from service.platform.problems import Problem

_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')
"""A string of structured fields (RFC 9651, 3.3.3), as the draft has it."""

_BARE = re.compile(r"[!#-+\--~]+")
"""What clients send who leave the quotes out. A comma would be two headers in one."""

_LONGEST = 255

REPLAYED = "Idempotent-Replayed"
"""The header of an answer that was given before, as other services call it; its value is `true`."""


class MalformedKey(Problem):
    """The Idempotency-Key cannot be taken."""

    def __init__(self) -> None:
        text = "The Idempotency-Key must be one header with 1 to 255 visible ASCII characters, in quotes or without."
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-key", text)


def idempotency_key(headers: Headers) -> str | None:
    """Returns the request's key, the same with quotes and without; None if it has none. Raises MalformedKey."""
    values = headers.getlist("Idempotency-Key")
    if not values:
        return None
    if len(values) == 1 and len(values[0]) <= _LONGEST + 2:
        value = values[0].strip()
        if quoted := _STRING.fullmatch(value):
            key = re.sub(r"\\(.)", r"\1", quoted[1])
        elif _BARE.fullmatch(value):
            key = value
        else:
            raise MalformedKey
        if len(key) <= _LONGEST:
            return key
    raise MalformedKey
