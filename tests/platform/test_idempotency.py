"""The Idempotency-Key header is read as the IETF's draft writes it and as clients send it."""

import pytest
from werkzeug.datastructures import Headers

from service.platform.idempotency import MalformedKey, idempotency_key


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a \"quoted\" \\ one"', r'a "quoted" \ one'),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_key_is_the_same_with_quotes_and_without(header: str, key: str) -> None:
    assert idempotency_key(Headers([("Idempotency-Key", header)])) == key


@pytest.mark.parametrize("header", ["", '""', '"open', "two words", "a,b", "x" * 256, "caf\xe9", '"a\tb"', "a\x7f"])
def test_a_malformed_key_is_refused(header: str) -> None:
    with pytest.raises(MalformedKey):
        idempotency_key(Headers([("Idempotency-Key", header)]))
    with pytest.raises(MalformedKey):
        idempotency_key(Headers([("Idempotency-Key", "a"), ("Idempotency-Key", "b")]))
