"""What the application does by itself: it deletes old notes, each night."""

import logging

from service.notes.cli import prune
from service.platform import jobs
from service.platform.app import App

log = logging.getLogger(__name__)


def register(app: App, days: int) -> None:
    """Has one worker delete the notes that are older than so many days; with 0 they are kept."""

    async def run() -> None:
        log.info("%d notes deleted", await prune(app.settings.database, days))

    if days:
        jobs.add(app, jobs.Job("prune", "17 3 * * *", run))
