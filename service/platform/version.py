"""The version of the application in each answer, for those who look which of several replicas has answered."""

from quart import Response

from service.platform.app import App


def register(app: App) -> None:
    """Adds the header that VERSION_HEADER names to each answer; without that setting it costs nothing."""
    name, version = app.settings.version_header, app.settings.version
    if not name:
        return

    @app.after_request
    async def add_version(response: Response) -> Response:
        response.headers[name] = version
        return response
