"""What the proof compares, by the names that stand in its table and chart."""

from harness.environments import Stack

TALLY, FLASK_PATCH = "Tally", "flask_patch and Flask-SQLAlchemy"

FLASK_PATCH_STACK = Stack(
    name="flask_patch",
    command=(
        *("hypercorn", "--config", "hypercorn.toml"),
        *("--workers", "{workers}", "--bind", "127.0.0.1:{port}", "loadtests.proof.flask_patch.app:app"),
    ),
    pool_size=1,
)

SLOW = 0.1
"""Seconds that each transaction takes longer on a slow database."""

SLOW_POOL = 128
"""Connections of each worker on a slow database: half of 256 clients each, for two workers."""


def on_slow_database(name: str) -> str:
    """Returns the name of a stack on a slow database."""
    return f"{name}; slow database"
