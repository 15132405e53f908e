"""Errors to Sentry, where SENTRY_DSN is set; otherwise nothing of it is imported.

What is sent is what is logged at ERROR and above, folded as the log is (log_folding.py): with its traceback and the
request's id, route and method. Neither values of variables are sent, nor queries, headers, cookies or bodies.
"""

import asyncio
import logging
from typing import Any

from quart import has_request_context, request

from service.platform.app import App
from service.platform.log_folding import FoldingHandler
from service.platform.logs import request_id

FLUSH = 2.0
"""Seconds that a worker which leaves takes to send the reports that it has."""


def register(app: App) -> None:
    """Begins to report when the worker begins to serve."""
    settings = app.settings
    if not settings.sentry_dsn:
        return
    import sentry_sdk  # noqa: PLC0415  # only where it is on
    from sentry_sdk.integrations.logging import EventHandler  # noqa: PLC0415

    @app.before_serving
    async def begin() -> None:
        sentry_sdk.init(
            settings.sentry_dsn,
            release=settings.version or None,
            environment=settings.environment,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            max_breadcrumbs=0,
            before_send=_add_request,
        )
        for handler in logging.getLogger().handlers:
            if isinstance(handler, FoldingHandler):
                handler.beside = EventHandler(logging.ERROR)

    @app.after_serving
    async def send_what_is_left() -> None:
        await asyncio.to_thread(sentry_sdk.flush, FLUSH)


def _add_request(event: Any, _hint: Any) -> Any:
    event.setdefault("tags", {})
    if (known := request_id()) is not None:
        event["tags"]["request_id"] = known
    if has_request_context() and request.url_rule is not None:
        event["transaction"] = request.url_rule.rule
        event["tags"]["method"] = request.method
    return event
