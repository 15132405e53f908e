"""On PYTHONPATH of `./run test`: measures coverage in a process from the moment at which it imports code of ours.

Coverage's own start is earlier, and makes each process that a test starts import half as fast again (Python 3.11): it
looks at each file of each library, also in those that run nothing of ours (Locust, Hypercorn's master, pip).
"""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

BEFORE = "service", "migrations", "alembic"
"""With the first of these the measuring starts. Alembic runs migrations/env.py without importing it."""

LIBRARIES = "quart", "sqlalchemy.ext.asyncio", "sqlalchemy.dialects.mysql", "aiomysql", "alembic.config", "structlog"
"""What our code imports: imported before the measuring starts, for which they are too large."""


class _Start:
    """Finds no module, and starts the measuring when the first of ours is looked for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in BEFORE:
            sys.meta_path.remove(self)
            gc.disable()  # an import leaves little garbage, and takes a fifth longer with it
            for library in LIBRARIES:
                if library.partition(".")[0] != name:
                    with suppress(ImportError):
                        importlib.import_module(library)
            gc.enable()
            import coverage  # noqa: PLC0415  # in such processes only

            os.environ["COVERAGE_PROCESS_START"] = os.environ["COVERAGE_AT_IMPORT"]
            coverage.process_startup()
            del os.environ["COVERAGE_PROCESS_START"]  # its children start theirs
        return None


if "COVERAGE_AT_IMPORT" in os.environ:
    sys.meta_path.insert(0, _Start())
