"""One pipeline for the logs of every process: JSON lines in production, readable ones in development, on stderr."""

import logging
from typing import Any

import structlog
from quart import has_request_context, request
from structlog.typing import EventDict, Processor


def configure(level: str, *, json: bool, version: str = "") -> None:
    """Sends what all loggers say, the libraries' too, at `level` and above, through structlog's formatter to stderr.

    Each line names the version of the application, where there is one.
    """
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer()]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                _add_process_and_request,
                *([_adder(version=version)] if version else []),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)


def _adder(**named: str) -> Processor:
    return lambda _logger, _name, event: {**event, **named}


def _add_process_and_request(_logger: Any, _name: str, event: EventDict) -> EventDict:
    event["process"] = event["_record"].process
    if has_request_context():
        event["request_id"] = request.headers.get("X-Request-ID")
    return event
