"""The probe in a worker to which Hypercorn has given nothing that the platform knows."""

import multiprocessing

from tests.platform.probe import app

__all__ = ["app"]

multiprocessing.current_process()._kwargs = {}  # type: ignore[attr-defined]
