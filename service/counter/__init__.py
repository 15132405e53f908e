"""The application: a counter that never lies. Everything about it is in this package."""

from service.counter.routes import blueprint

__all__ = ["blueprint"]
