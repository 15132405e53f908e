"""The counter's errors. Each of those that answer a hit means that it was not counted."""

import math
from http import HTTPStatus

from service.counter.tables import LARGEST
from service.platform.problems import Problem


class NoSuchCounter(Problem):
    """No counter has this name."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, "no-such-counter", "There is no counter of this name.")


class CounterFull(Problem):
    """The amount would take the counter above its largest number."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.CONFLICT, "counter-full", f"A counter ends at {LARGEST}; this has no room for it.")


class TooManyWatchers(Problem):
    """The worker has as many streams as it may have."""

    def __init__(self, largest: int) -> None:
        text = f"{largest} watch already, which is as many as are allowed here; please try again later."
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-watchers", text)


class IdempotencyKeyReused(Problem):
    """The Idempotency-Key was sent before with another amount."""

    def __init__(self) -> None:
        text = "This Idempotency-Key was sent before with another amount: use a new one for another request."
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency-key-reused", text)


class CounterConflict(Problem):
    """The counter exists with another start."""

    def __init__(self, start: int) -> None:
        text = f"This counter is there and started at {start}, which cannot be changed: delete it first."
        super().__init__(HTTPStatus.CONFLICT, "counter-conflict", text)


class NoSuchReceipt(Problem):
    """The counter has no such receipt, or it was rolled up."""

    def __init__(self) -> None:
        text = "This counter has no such receipt; those that are old are rolled up."
        super().__init__(HTTPStatus.NOT_FOUND, "no-such-receipt", text)


class PrefetchRefused(Problem):
    """A browser fetches ahead what counts when it is loaded."""

    def __init__(self) -> None:
        text = "This is not to be fetched ahead, since loading it counts."
        super().__init__(HTTPStatus.FORBIDDEN, "prefetch-refused", text)


class CrawlersDoNotCount(Problem):
    """A crawler runs a page's script that counts."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.FORBIDDEN, "crawlers-do-not-count", "Crawlers do not count here.")


class ImagesDoNotCount(Problem):
    """The counter's owner has not allowed images that count."""

    def __init__(self) -> None:
        text = "Images of this counter do not count: its owner may allow them with `image_hits`."
        super().__init__(HTTPStatus.FORBIDDEN, "images-do-not-count", text)


class TooManyImages(Problem):
    """As many images have counted in this minute as the counter's owner allows."""

    def __init__(self, seconds: float) -> None:
        text = "As many images of this counter have counted in this minute as its owner allows. This one did not."
        super().__init__(HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", text)
        self.headers = {"Retry-After": str(math.ceil(seconds))}


class PublishedAmount(Problem):
    """A publishable token counts one at a time."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.FORBIDDEN, "scope-missing", "A publishable token counts one at a time.")


class VisitorsKey(Problem):
    """A publishable token counts a visitor once a day, by a key that the service makes."""

    def __init__(self) -> None:
        text = "Visitors count once a day here, under a key of the service's own: leave the Idempotency-Key out."
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, "visitors-have-a-key", text)


class MalformedName(Problem):
    """No counter can have this name."""

    def __init__(self) -> None:
        text = "A counter's name has 1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or a digit."
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-name", text)
