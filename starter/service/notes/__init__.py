"""The application: notes that are written and read. Put yours in its place, or beside it."""

from service.notes import api, cli
from service.notes.settings import load_notes_settings
from service.platform import openapi
from service.platform.app import App

__all__ = ["register"]


def register(app: App) -> None:
    """Adds the routes and the commands. Raises SettingsError."""
    app.extensions["notes"] = load_notes_settings()
    app.register_blueprint(api.blueprint)
    openapi.register(app, api.DESCRIBED)
    cli.register(app)
