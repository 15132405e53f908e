"""The service. `create_app` is the one place that knows both the platform and the application."""

from service import notes, platform
from service.notes.tables import metadata
from service.platform.app import App
from service.platform.settings import Settings

__all__ = ["create_app", "metadata"]


def create_app(settings: Settings) -> App:
    """Returns the application, not started: it opens no connection before it serves."""
    app = App(settings)
    platform.register(app)
    notes.register(app)
    return app
