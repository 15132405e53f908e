"""The suites: candidates, the connections or rates at which they are measured, and the target ratios."""

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from benchmarks.slow_disk import SYNC
from harness.environments import Stack
from loadtests.proof.stacks import FLASK_PATCH, FLASK_PATCH_STACK, SLOW, SLOW_POOL, TALLY

FASTAPI_STACK = Stack(
    name="fastapi",
    command=(
        *("uvicorn", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"),
        *("--no-server-header", "--no-date-header", "--no-proxy-headers"),
        *("--workers", "{workers}", "--port", "{port}", "benchmarks.fastapi.app:app"),
    ),
    pool_size=2,
)

FASTAPI_HYPERCORN_STACK = replace(
    FASTAPI_STACK,
    command=(
        *("hypercorn", "--config", "hypercorn.toml"),
        *("--workers", "{workers}", "--bind", "127.0.0.1:{port}", "benchmarks.fastapi.app:app"),
    ),
)


def uvicorn(app: str, *options: str) -> Stack:
    """Returns an ASGI application of this repository under uvicorn, set up as hypercorn.toml sets up Hypercorn."""
    return Stack(
        name="servers",
        command=(
            *("uvicorn", "--loop", "uvloop", "--http", "httptools", "--ws", "wsproto", "--lifespan", "on"),
            *("--log-level", "warning", "--no-access-log", "--no-server-header", "--no-date-header"),
            *("--no-proxy-headers", "--timeout-keep-alive", "75", "--timeout-graceful-shutdown", "30"),
            *("--workers", "{workers}", "--port", "{port}", *options, app),
        ),
        pool_size=2,
    )


def granian(app: str, *options: str) -> Stack:
    """Returns an ASGI application of this repository under granian, set up as hypercorn.toml sets up Hypercorn."""
    return Stack(
        name="servers",
        command=(
            *("granian", "--interface", "asgi", "--loop", "uvloop", "--http", "1", "--log-level", "warning"),
            *("--backlog", "2048", "--http1-buffer-size", "32768", "--http1-header-read-timeout", "60000"),
            *("--workers-kill-timeout", "30"),
            *("--workers", "{workers}", "--port", "{port}", *options, app),
        ),
        pool_size=2,
    )


@dataclass(frozen=True)
class Server:
    """A server: an application on Hypercorn, or a stack in an environment of its own."""

    app: str = "benchmarks.applications:make()"
    stack: Stack | None = None
    workers: int | None = None
    """None: as many as `--workers` says."""
    slow: float = 0.0
    delay: float | None = None
    """Seconds each way that a proxy before the database waits; None: no proxy."""
    sync: float = 0.0
    """Seconds that each sync of its database takes longer."""
    full: bool = False
    """Whether its counter has many receipts already."""
    pool: int | None = None
    """Connections of each worker for transactions of one request; None: the default, or the stack's own number."""
    behind: str | None = None
    """The name of the server behind nginx; all other fields are that server's."""
    fixed: bool = False
    """Whether it is nginx alone, with a fixed answer."""


@dataclass(frozen=True)
class Candidate:
    """A candidate: a path of a server, requested with or without an Idempotency-Key."""

    name: str
    server: str
    path: str = "/"
    keyed: bool = False


class Claim(NamedTuple):
    """The ratio of `of` and `to` at so many connections: a rate's is at least, a latency's at most `target`.

    The median of the rounds decides. With `peer`, `to` is another stack, which is ahead where the target is missed.
    """

    of: str
    to: str
    connections: int
    target: float = 0.0
    """0: none; the ratio is only shown."""
    quantity: Literal["rate", "p50"] = "rate"
    peer: bool = False

    @property
    def at_most(self) -> bool:
        return self.quantity != "rate"


class Closed(NamedTuple):
    """A closed loop, measured by wrk: so many kept-alive connections, each of which waits for each answer."""

    connections: int
    candidates: tuple[str, ...]


class Arriving(NamedTuple):
    """An open loop, measured by Locust's scenario `overload`: requests/s, whether or not earlier ones are answered."""

    rate: int
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """A set of measurements with one report."""

    title: str
    candidates: tuple[Candidate, ...]
    plan: tuple[Closed, ...]
    claims: tuple[Claim, ...]
    rounds: int
    seconds: int
    steady: str
    """The candidate whose rates tell how noisy the machine was."""
    arriving: tuple[Arriving, ...] = field(default=())
    quick: "Suite | None" = None
    charts: bool = False
    compose: bool = False
    """Whether its servers are those of benchmarks/compose.py, and not of SERVERS."""


SERVERS = {
    "near": Server(),
    "far": Server(delay=0.001),
    "through": Server(delay=0.0),
    "full": Server(full=True),
    "quart": Server(app="benchmarks.applications:bare_quart"),
    "asgi": Server(app="benchmarks.applications:bare_asgi"),
    "Quart's connection": Server(app="benchmarks.applications:quarts_connection()"),
    "Quart's sessions": Server(app="benchmarks.applications:quarts_sessions()"),
    "no gc tuning": Server(app="benchmarks.applications:without_gc_tuning()"),
    "no metrics": Server(app="benchmarks.applications:without_metrics()"),
    "nginx": Server(behind="near"),
    "fixed": Server(fixed=True),
    "1 worker": Server(workers=1),
    "4 workers": Server(workers=4),
    "flask_patch": Server(stack=FLASK_PATCH_STACK),
    "fastapi": Server(stack=FASTAPI_STACK),
    "fastapi, Hypercorn": Server(stack=FASTAPI_HYPERCORN_STACK),
    "uvicorn": Server(stack=uvicorn("benchmarks.applications:make", "--factory")),
    "granian": Server(stack=granian("benchmarks.applications:make", "--factory")),
}

CEILING, ALONE = "Tally's stack without a database", "Quart, one transaction a request"
FASTAPI, FASTAPI_HYPERCORN = "FastAPI, one transaction a request", "FastAPI under Hypercorn"
NGINX, GENERATOR = "Tally through nginx", "nginx with a fixed answer (wrk's own limit)"
ONE, FOUR, CEILING_ONE, CEILING_FOUR = (
    f"{name}; {workers}" for name in (TALLY, CEILING) for workers in ("1 worker", "4 workers")
)

ALL = (TALLY, NGINX, CEILING, ALONE, FASTAPI, FLASK_PATCH)
PEERS = (ALONE, FASTAPI, FLASK_PATCH)

FAST, SLEEPING, NEAR, FAR = "", "slow database", "database 2 ms away", "database 20 ms away"
SLOW_DISK = "slow disk"
SLOW_DATABASES = {
    SLEEPING: Server(slow=SLOW, pool=SLOW_POOL),
    NEAR: Server(delay=0.001, pool=2),
    FAR: Server(delay=0.01, pool=8),
    SLOW_DISK: Server(sync=SYNC, pool=8),
}
"""By name, the server of the service on it, with the pool that serves its peers best.

Where the counter's row is locked over round trips or syncs, more connections only wait for it: FastAPI with 2, 8 and
128 for each worker had at 256 connections 45, 44 and 42 requests/s 20 ms away and 23, 23 and 20 on the slow disk, and
at 16 connections a p99 of 467, 421 and 379 ms and of 1149, 684 and 683 ms; 2 ms away with 2 and 8 it had 323 and 304.
"""

POINTS = dict.fromkeys((FAST, SLEEPING), (1, 4, 16, 64, 256, 1024)) | dict.fromkeys(
    (NEAR, FAR, SLOW_DISK), (16, 64, 256)
)
"""The connections at which Tally and its peers are measured, by database."""


def on(database: str, name: str) -> str:
    """Returns the name of a stack or server on a database of POINTS."""
    return f"{name}; {database}" if database else name


SERVERS |= {
    on(database, name): replace(server, stack=stack)
    for database, server in SLOW_DATABASES.items()
    for name, stack in (("near", None), ("fastapi", FASTAPI_STACK), ("flask_patch", FLASK_PATCH_STACK))
}
SERVERS[on(SLEEPING, "fastapi, Hypercorn")] = replace(SLOW_DATABASES[SLEEPING], stack=FASTAPI_HYPERCORN_STACK)

_ON_SAME_SERVER = {FAST: (1, 4), SLEEPING: (64,)}
"""Connections at which there is little to combine, so that what a server takes for a request decides."""

_WORKERS = (ONE, CEILING_ONE, FOUR, CEILING_FOUR)

_COUNTING = (
    (TALLY, "near", "/"),
    (ALONE, "near", "/alone"),
    (FASTAPI, "fastapi", "/"),
    (FLASK_PATCH, "flask_patch", "/"),
)
_STACKS_CANDIDATES = (
    Candidate(TALLY, "near"),
    Candidate(NGINX, "nginx"),
    Candidate(CEILING, "near", "/without-database"),
    Candidate(ALONE, "near", "/alone"),
    Candidate(FASTAPI, "fastapi"),
    Candidate(FLASK_PATCH, "flask_patch"),
    *(Candidate(on(database, FASTAPI_HYPERCORN), on(database, "fastapi, Hypercorn")) for database in _ON_SAME_SERVER),
    *(
        Candidate(on(database, name), on(database, server), path)
        for database in SLOW_DATABASES
        for name, server, path in _COUNTING
    ),
    Candidate(ONE, "1 worker"),
    Candidate(CEILING_ONE, "1 worker", "/without-database"),
    Candidate(FOUR, "4 workers"),
    Candidate(CEILING_FOUR, "4 workers", "/without-database"),
    Candidate(GENERATOR, "fixed"),
)

_STACKS_CLAIMS = (
    *(
        Claim(on(database, TALLY), on(database, peer), connections, 1, peer=True)
        for database, points in POINTS.items()
        for peer in PEERS
        for connections in points
    ),
    *(Claim(on(SLEEPING, TALLY), on(SLEEPING, peer), 16, 1.1, "p50") for peer in PEERS),
    Claim(TALLY, FLASK_PATCH, 256, 5),
    Claim(on(SLEEPING, TALLY), on(SLEEPING, FLASK_PATCH), 256, 100),
    *(
        Claim(on(database, TALLY), on(database, FASTAPI_HYPERCORN), connections, 0.95)
        for database, points in _ON_SAME_SERVER.items()
        for connections in points
    ),
    *(Claim(TALLY, CEILING, connections, 0.85) for connections in (64, 256)),
    *(Claim(NGINX, TALLY, connections, 0.8) for connections in (64, 256)),
    Claim(GENERATOR, CEILING, 256),
)


def _measured(connections: int) -> tuple[str, ...]:
    """Returns the candidates at that number of connections, those on one database after each other."""
    slow = (
        on(database, name) for database in SLOW_DATABASES if connections in POINTS[database] for name in (TALLY, *PEERS)
    )
    same_server = (
        on(database, FASTAPI_HYPERCORN) for database, points in _ON_SAME_SERVER.items() if connections in points
    )
    return (*ALL, *slow, *same_server, *((GENERATOR,) if connections == 256 else ()))


_QUICK = Suite(
    title="Tally and other stacks",
    candidates=_STACKS_CANDIDATES,
    plan=tuple(Closed(connections, _measured(connections)) for connections in (16, 256)),
    claims=_STACKS_CLAIMS,
    rounds=3,
    seconds=3,
    steady=CEILING,
    charts=True,
)

STACKS = Suite(
    title="Tally and other stacks",
    candidates=_STACKS_CANDIDATES,
    plan=tuple(
        Closed(connections, (*_measured(connections), *(_WORKERS if connections == 256 else ())))
        for connections in POINTS[FAST]
    ),
    claims=_STACKS_CLAIMS,
    rounds=5,
    seconds=4,
    steady=CEILING,
    arriving=tuple(Arriving(rate, (TALLY, FASTAPI, FLASK_PATCH)) for rate in (100, 200, 400, 800, 1200)),
    quick=_QUICK,
    charts=True,
)

_COUNTER, _NO_DATABASE, _KEYED, _ALONE = (
    "counter",
    "ceiling",
    "counter, each hit with a key",
    "one transaction a request",
)
_FAR, _FAR_CEILING = "counter, database 2 ms away", "ceiling beside it"
_MANY, _MANY_ALONE = "1,000 counters", "1,000 counters, one transaction a request"
_THROUGH = "counter, through the same proxy without a delay"
_FULL, _FULL_KEYED = "counter with many receipts", "counter with many receipts, each hit with a key"
_QUART, _ASGI = "bare Quart", "bare ASGI"

COUNTER = Suite(
    title="The counter and what it is made of",
    candidates=(
        Candidate(_NO_DATABASE, "near", "/without-database"),
        Candidate(_COUNTER, "near"),
        Candidate(_KEYED, "near", keyed=True),
        Candidate(_ALONE, "near", "/alone"),
        Candidate(_MANY, "near", "/many"),
        Candidate(_MANY_ALONE, "near", "/many-alone"),
        Candidate(_FAR, "far"),
        Candidate(_FAR_CEILING, "far", "/without-database"),
        Candidate(_THROUGH, "through"),
        Candidate(_FULL, "full"),
        Candidate(_FULL_KEYED, "full", keyed=True),
        Candidate(_QUART, "quart"),
        Candidate(_ASGI, "asgi"),
    ),
    plan=(
        Closed(64, (_NO_DATABASE, _COUNTER)),
        Closed(
            256,
            (
                *(_NO_DATABASE, _COUNTER, _KEYED, _ALONE, _MANY, _MANY_ALONE, _FAR, _FAR_CEILING, _THROUGH),
                *(_FULL, _FULL_KEYED, _QUART, _ASGI),
            ),
        ),
    ),
    claims=(
        Claim(_COUNTER, _NO_DATABASE, 256, 0.85),
        Claim(_COUNTER, _NO_DATABASE, 64, 0.85),
        Claim(_FAR, _FAR_CEILING, 256, 0.7),
        Claim(_THROUGH, _COUNTER, 256),
        Claim(_KEYED, _COUNTER, 256, 0.6),
        Claim(_FULL, _COUNTER, 256, 0.95),
        Claim(_FULL_KEYED, _KEYED, 256, 0.95),
        Claim(_MANY, _MANY_ALONE, 256, 1.0),
        Claim(_COUNTER, _ALONE, 256),
        Claim(_NO_DATABASE, _QUART, 256),
        Claim(_NO_DATABASE, _ASGI, 256),
    ),
    rounds=5,
    seconds=20,
    steady=_NO_DATABASE,
)

_WITHOUT = ("Quart's connection", "Quart's sessions", "no gc tuning", "no metrics")
_COUNTER_WITHOUT = "counter, no metrics"

PLATFORM = Suite(
    title="What makes a request cheaper, taken away one by one",
    candidates=(
        Candidate(_NO_DATABASE, "near", "/without-database"),
        *(Candidate(name, name, "/without-database") for name in _WITHOUT),
        Candidate(_COUNTER, "near"),
        Candidate(_COUNTER_WITHOUT, "no metrics"),
    ),
    plan=tuple(Closed(connections, (_NO_DATABASE, *_WITHOUT, _COUNTER, _COUNTER_WITHOUT)) for connections in (64, 256)),
    claims=(
        *(Claim(_NO_DATABASE, name, connections) for name in _WITHOUT for connections in (64, 256)),
        *(Claim(_COUNTER, _COUNTER_WITHOUT, connections, 0.97) for connections in (64, 256)),
    ),
    rounds=9,
    seconds=3,
    steady=_NO_DATABASE,
)

_UNDER = {"near": "Hypercorn", "uvicorn": "uvicorn", "granian": "granian"}
_PATHS = {"counter": "/", "without a database": "/without-database"}


def _under(server: str, what: str) -> str:
    return f"{what}, {_UNDER[server]}"


OTHER_SERVERS = Suite(
    title="The same application under other servers",
    candidates=tuple(
        Candidate(_under(server, what), server, path) for what, path in _PATHS.items() for server in _UNDER
    ),
    plan=tuple(
        Closed(connections, tuple(_under(server, what) for what in _PATHS for server in _UNDER))
        for connections in (1, 16, 64, 256)
    ),
    claims=tuple(
        Claim(_under(server, what), _under("near", what), connections)
        for what in _PATHS
        for server in ("uvicorn", "granian")
        for connections in (1, 16, 64, 256)
    ),
    rounds=5,
    seconds=4,
    steady=_under("near", "without a database"),
)

_DIRECT, _AT_NGINX, _AT_PORT = _IN_COMPOSE = (
    "one replica, asked directly",
    "the stack, asked at nginx",
    "the stack, through the published port",
)


def _livez(name: str) -> str:
    """Returns the name of the candidate that does not count, and shows what the way costs alone."""
    return f"{name}; /livez"


_COMPOSE_PARTS = (*_IN_COMPOSE, *map(_livez, _IN_COMPOSE))

_COMPOSE = Suite(
    title="The stack that docker-compose starts",
    candidates=tuple(
        Candidate(named(name), server, path)
        for named, path in ((str, "/"), (_livez, "/livez"))
        for name, server in zip(_IN_COMPOSE, ("replica", "nginx", "port"), strict=True)
    ),
    plan=tuple(Closed(connections, _COMPOSE_PARTS) for connections in (16, 64, 128, 256, 512)),
    claims=(
        Claim(_AT_NGINX, _DIRECT, 64),
        Claim(_AT_NGINX, _DIRECT, 128, 0.7),
        Claim(_AT_NGINX, _DIRECT, 256),
        Claim(_AT_PORT, _AT_NGINX, 128),
        Claim(_livez(_AT_NGINX), _livez(_DIRECT), 128),
        Claim(_livez(_AT_PORT), _livez(_AT_NGINX), 128),
    ),
    rounds=5,
    seconds=4,
    steady=_livez(_DIRECT),
    compose=True,
)

COMPOSE = replace(_COMPOSE, quick=replace(_COMPOSE, plan=(Closed(128, _COMPOSE_PARTS),), rounds=3, seconds=3))

SUITES = {"stacks": STACKS, "counter": COUNTER, "platform": PLATFORM, "servers": OTHER_SERVERS, "compose": COMPOSE}
