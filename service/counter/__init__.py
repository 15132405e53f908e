"""The application: a counter that never lies. Everything about it is in this package.

A hit comes in by a route (`page`, `api`, `image_hits`), waits in the queue (`hit_queue`) of its counter's lane
(`lane`), and is counted with others (`batch`) in one transaction (`connections`).
"""

from service.counter import access, api, badges, cli, export, image_hits, jobs, page, pages, views, watching
from service.counter.connections import TRIES, LaneConnections
from service.counter.lanes import Lanes
from service.counter.options import Options
from service.counter.settings import load_counter_settings
from service.counter.status import hits
from service.platform import openapi, status, tracing
from service.platform.app import App

__all__ = ["register"]


def register(app: App) -> None:
    """Adds the routes, and opens the worker's lanes when it begins to serve. Raises SettingsError."""
    settings = load_counter_settings()
    database = app.settings.database
    app.connections += settings.lane_pool_size
    app.tries += TRIES
    app.scopes_of_one.add(access.PUBLISH)
    app.register_blueprint(page.blueprint)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(badges.blueprint)
    app.register_blueprint(export.blueprint)
    app.register_blueprint(image_hits.blueprint)
    app.register_blueprint(pages.blueprint)
    app.extensions["options"] = Options()
    openapi.register(app, api.DESCRIBED)
    watching.register(app, settings)
    cli.register(app, settings)
    jobs.register(app, settings)
    status.add(app, hits)

    @app.before_serving
    async def open_lanes() -> None:
        if settings.bot_filter:
            views.load_crawlers()
        connections = LaneConnections(database, settings.lane_pool_size)
        lanes = Lanes
        if tracing.is_on():
            from service.counter.traced_lanes import TracedLanes as lanes  # noqa: N813, PLC0415  # only where it is on
        app.extensions["lanes"] = lanes(connections, settings, queue_timeout=database.pool_timeout)

    @app.after_serving
    async def close_lanes() -> None:
        await app.extensions["lanes"].close()
