"""One pipeline for the logs of every process: JSON lines in production, readable ones on a terminal, on stderr.

docs/logs.md names each field.
"""

import json
import logging
import re
import time
from typing import Any

import structlog
from quart import Quart, has_request_context, has_websocket_context, request, websocket
from structlog.typing import EventDict, Processor

from service.platform.log_folding import FoldingHandler

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""As nginx.conf lets it pass."""


def configure(level: str, *, json: bool, version: str = "") -> None:
    """Sends what all loggers say, the libraries' too, at `level` and above, through structlog's formatter to stderr.

    Each line names the version of the application, where there is one. What repeats is folded (log_folding.py).
    """
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, _in_order, structlog.processors.JSONRenderer(_dumps)]
        if json
        else [structlog.dev.ConsoleRenderer(timestamp_key="time")]
    )
    handler = FoldingHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _add_worker_and_request,
                *([_adder(version=version)] if version else []),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.captureWarnings(True)
    root = logging.getLogger()
    for former in root.handlers:
        if isinstance(former, FoldingHandler):
            former.close()
    root.handlers = [handler]
    root.setLevel(level)


def register(app: Quart) -> None:
    """Says what lasts when the worker ends: multiprocessing ends it without logging's own end."""

    @app.after_serving
    async def say_what_lasts() -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, FoldingHandler):
                handler.say_what_lasts()


def request_id() -> str | None:
    """Returns the id that nginx gave to the request that is handled here; None without one, and outside of requests."""
    one = request if has_request_context() else websocket if has_websocket_context() else None
    found = one.headers.get("X-Request-ID", "") if one else ""
    return found if _REQUEST_ID.fullmatch(found) else None


def _adder(**named: str) -> Processor:
    return lambda _logger, _name, event: {**event, **named}


def _add_worker_and_request(_logger: Any, _name: str, event: EventDict) -> EventDict:
    event["worker"] = event["_record"].process
    if (known := request_id()) is not None:
        event["request_id"] = known
    if has_request_context():
        event["method"] = request.method
        event["route"] = request.url_rule.rule if request.url_rule else None
        if (begun := getattr(request, "begun", None)) is not None:
            event["seconds"] = round(time.monotonic() - begun, 6)
    return event


def _in_order(_logger: Any, _name: str, event: EventDict) -> EventDict:
    return {**{name: event[name] for name in ("time", "level", "event")}, **event}


def _dumps(event: EventDict, **named: Any) -> str:
    """Returns JSON in ASCII. Half of a pair of surrogates, which is no text and which many readers refuse, is a ?."""
    line = json.dumps(event, **named)
    if "\\ud" in line:
        line = json.dumps(json.loads(json.dumps(event, ensure_ascii=False, **named).encode("utf-8", "replace")))
    return line
