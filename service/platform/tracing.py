"""Traces by OpenTelemetry, where its standard environment variables ask for them; otherwise nothing of it is imported.

docs/logs.md names the spans and the variables.
"""

import os

from service.platform.app import App


def is_on() -> bool:
    """Whether there is somewhere to send traces: over OTLP, by HTTP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := os.environ.get("OTEL_TRACES_EXPORTER"):
        return exporter == "otlp"
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))


def register(app: App) -> None:
    """Has each request be a span, if tracing is on."""
    if is_on():
        from service.platform import spans  # noqa: PLC0415  # only where it is on

        spans.register(app)
