"""The application's metrics: a line makes one, and /metrics shows it (docs/metrics.md)."""

from service.platform.metrics import counter

WRITTEN = counter("notes_written_total", "Notes that were written.")
