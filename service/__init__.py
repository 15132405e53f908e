"""The service. `create_app` is the one place that knows both the platform and the application.

The modules beside this file are the platform; the application is the sub-package `counter`. To put your own in its
place, change the import and the registration here.
"""

from service import counter, cross_origin, database, garbage, health, lifecycle, logs, problems, tokens
from service.app import App
from service.forwarded import Forwarded
from service.settings import Settings


def create_app(settings: Settings) -> App:
    """Returns the application, not started: it opens no connection before it serves."""
    logs.configure(settings.log_level, json=settings.environment == "production")
    app = App(settings)
    problems.register(app)
    lifecycle.register(app)
    database.register(app)
    health.register(app)
    tokens.register(app)
    counter.register(app)
    cross_origin.register(app)
    garbage.register(app)
    app.asgi_app = Forwarded(app.asgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    return app
