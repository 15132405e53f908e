"""The application: notes that are written and read. Put yours in its place, or beside it."""

from service.notes import api, cli, jobs
from service.notes.settings import load_notes_settings
from service.platform import openapi
from service.platform.app import App

__all__ = ["register"]


def register(app: App) -> None:
    """Adds the routes, the commands and the jobs. Raises SettingsError."""
    app.extensions["notes"] = settings = load_notes_settings()
    app.register_blueprint(api.blueprint)
    openapi.register(app, api.DESCRIBED)
    cli.register(app)
    jobs.register(app, settings.note_days)
