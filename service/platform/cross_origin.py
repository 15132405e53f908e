"""CORS by quart-cors, for the origins in CORS_ORIGINS; it costs nothing where there are none."""

from quart_cors import cors

from service.platform.app import App
from service.platform.idempotency import REPLAYED

REQUEST_HEADERS = "Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"
ANSWER_HEADERS = REPLAYED, "Location", "Retry-After", "WWW-Authenticate", "X-Request-ID"

MAX_AGE = 600
"""Seconds for which a browser need not ask again whether a request is allowed."""


def register(app: App) -> None:
    """Allows the origins of the settings on every route and for errors, without cookies."""
    if app.settings.cors_origins:
        cors(
            app,
            allow_origin=app.settings.cors_origins,
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
            max_age=MAX_AGE,
        )
