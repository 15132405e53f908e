"""How an answer says that its numbers were given before."""

from quart import Response

from service.counter.batch import Receipt, Replayed
from service.platform.idempotency import REPLAYED


def say_if_replayed(response: Response, receipt: Receipt) -> bool:
    """Adds the header where the receipt was given to an earlier hit; returns whether it was."""
    is_replayed = isinstance(receipt, Replayed)
    if is_replayed:
        response.headers[REPLAYED] = "true"
    return is_replayed
