"""On PYTHONPATH of `./run test`: makes the start of each process that imports our code cheap, and measures coverage.

The libraries that our code imports come first, without the garbage collector, which takes a fifth of the time of an
import and finds nothing, and without those that production lacks. Then coverage starts, if COVERAGE_AT_IMPORT names
its configuration. Its own start is at once, and makes a process import half as fast again (Python 3.11): it looks at
each file, even in Locust and pip.
"""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

OURS = "service", "migrations", "alembic"
"""With the first of these it happens. Alembic runs migrations/env.py without importing it."""

NOT_IN_PRODUCTION = "pygments", "rich"
"""Libraries of the development tools, which Mako and structlog import where they are installed."""

LIBRARIES = (
    *("hypercorn.asyncio", "quart", "quart_cors", "quart_schema", "structlog", "environs", "prometheus_client"),
    *("sqlalchemy.ext.asyncio", "sqlalchemy.dialects.mysql", "aiomysql", "alembic.config", "alembic.script"),
)


class _Start:
    """Finds no module, and does the above when the first of ours is looked for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in OURS:
            sys.meta_path.remove(self)
            _import_libraries(name)
            if os.environ.get("COVERAGE_AT_IMPORT"):
                _measure()
        return None


def _import_libraries(but: str) -> None:
    hidden = [library for library in NOT_IN_PRODUCTION if library not in sys.modules]
    for library in hidden:
        sys.modules[library] = None  # type: ignore[assignment]  # importing it is an error
    gc.disable()
    for library in LIBRARIES:
        if library.partition(".")[0] != but:
            with suppress(ImportError):
                importlib.import_module(library)
    gc.enable()
    for library in hidden:
        del sys.modules[library]


def _measure() -> None:
    import coverage  # noqa: PLC0415  # not where nothing is measured

    os.environ["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_AT_IMPORT"]
    coverage.process_startup()
    del os.environ["COVERAGE_PROCESS_START"]  # its children start theirs


sys.meta_path.insert(0, _Start())
