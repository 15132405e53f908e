"""What every Quart application on MySQL needs. It never imports an application: `service.create_app` joins both."""

import sys

from service.platform import (
    client_connections,
    cross_origin,
    database,
    error_reports,
    event_stream,
    exposition,
    gc_tuning,
    health,
    jobs,
    lifecycle,
    logs,
    problems,
    status,
    tokens,
    tracing,
    version,
)
from service.platform.app import App
from service.platform.forwarded import Forwarded

__all__ = ["register"]


def register(app: App) -> None:
    """Adds the platform to an application: errors, draining, database, health, tokens, CORS, logs, metrics."""
    settings = app.settings
    is_json = settings.environment == "production" and not sys.stderr.isatty()
    logs.configure(settings.log_level, json=is_json, version=settings.version)
    for part in (
        logs,
        problems,
        lifecycle,
        event_stream,
        client_connections,
        status,
        jobs,
        database,
        health,
        tokens,
        cross_origin,
        version,
        gc_tuning,
        exposition,
        tracing,
        error_reports,
    ):
        part.register(app)
    app.asgi_app = Forwarded(app.asgi_app, app.settings.trusted_proxies)  # type: ignore[method-assign]
