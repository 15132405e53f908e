"""A span for each request, which continues the trace of its `traceparent`. Imported where tracing is on (`tracing`)."""

import asyncio
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from quart import request

from service.platform.app import App
from service.platform.logs import request_id

FLUSH = 5.0
"""Seconds that a worker which leaves takes to send the spans that it has."""

tracer = trace.get_tracer("service")


def register(app: App) -> None:
    """Wraps the application. The exporter, which has a thread, begins when the worker begins to serve."""
    app.asgi_app = Traced(app.asgi_app)  # type: ignore[method-assign]

    @app.before_request
    async def name_the_route() -> None:
        span = trace.get_current_span()
        if request.url_rule is not None:
            span.update_name(f"{request.method} {request.url_rule.rule}")
            span.set_attribute("http.route", request.url_rule.rule)
        if (known := request_id()) is not None:
            span.set_attribute("request_id", known)

    @app.before_serving
    async def begin() -> None:
        known = {"service.version": app.settings.version} if app.settings.version else {}
        provider = TracerProvider(resource=Resource.create(known), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        app.extensions["tracer_provider"] = provider

    @app.after_serving
    async def send_what_is_left() -> None:
        provider: TracerProvider = app.extensions["tracer_provider"]
        await asyncio.to_thread(provider.force_flush, round(FLUSH * 1000))


class Traced:
    """An ASGI application whose requests are spans; of an address they have the path alone."""

    def __init__(self, app: Any) -> None:
        self._app: ASGIFramework = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"], "url.scheme": scope["scheme"]}
        with tracer.start_as_current_span(
            scope["method"], propagate.extract(headers), kind=SpanKind.SERVER, attributes=attributes
        ) as span:

            async def send_and_note(event: ASGISendEvent) -> None:
                if event["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", event["status"])
                    if event["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(event)

            await self._app(scope, receive, send_and_note)
