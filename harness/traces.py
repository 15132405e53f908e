"""What was sent to a receiver over OTLP."""

from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from harness.receiver import Receiver


@dataclass(frozen=True)
class Sent:
    """A span; ids are bytes, times are in nanoseconds."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    begin: int
    end: int
    is_error: bool
    attributes: dict[str, Any]
    links: list[bytes]
    """The ids of the spans that it is linked to."""
    events: list[str]
    resource: dict[str, Any]


def spans_in(received: Receiver) -> list[Sent]:
    """Returns the spans that have come so far."""
    sent = [ExportTraceServiceRequest.FromString(body) for body in received.bodies.get("/v1/traces", [])]
    return [
        Sent(
            span.name,
            span.trace_id,
            span.span_id,
            span.parent_span_id,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code == 2,
            _values(span.attributes),
            [link.span_id for link in span.links],
            [event.name for event in span.events],
            _values(of_one.resource.attributes),
        )
        for request in sent
        for of_one in request.resource_spans
        for scope in of_one.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
