"""The settings, read from the environment and validated once at the start.

`.quartenv` fills what the environment lacks, and each `NAME` may be given as `NAME_FILE`, the path of a file that holds
the value. `.quartenv.example` is the manual of every setting.
"""

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, TypeVar, cast

from environs import EnvError, FileAwareEnv, ValidationError, validate

from service.platform import quartenv, tls
from service.platform.token_file import Token, parse_tokens

_T = TypeVar("_T")

ROOT = Path(__file__).resolve().parents[2]


class SettingsError(Exception):
    """A setting is missing or malformed; the text is one sentence that names it and never holds its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """How to reach the database, and how long to wait for it. Times are in seconds. `tls`: None without TLS."""

    host: str
    port: int
    name: str
    username: str
    password: str = field(repr=False)
    connect_timeout: float
    lock_timeout: int
    statement_timeout: float
    idle_timeout: int
    pool_size: int
    pool_timeout: float
    durability: Literal["strict", "relaxed"]
    tls: ssl.SSLContext | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The service's settings. Times are in seconds, sizes in bytes."""

    environment: Literal["production", "development"]
    version: str
    version_header: str
    secret_key: str = field(repr=False)
    secret_key_fallbacks: tuple[str, ...] = field(repr=False)
    log_level: str
    sentry_dsn: str = field(repr=False)
    workers: int
    request_timeout: float
    body_timeout: float
    shutdown_delay: float
    event_heartbeat: float
    max_body_size: int
    trusted_proxies: tuple[str, ...]
    cors_origins: tuple[str, ...]
    api_tokens_required: bool
    api_tokens: Mapping[str, Token] = field(repr=False)
    metrics: bool
    metrics_directory: Path
    database: DatabaseSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSettings:
    """The migration job's settings. Times are in seconds."""

    log_level: str
    wait_timeout: float
    lock_timeout: int
    attempts: int
    database: DatabaseSettings


def load_settings() -> Settings:
    """Returns the service's settings. Raises SettingsError."""
    return load(_read_settings)


def load_migration_settings() -> MigrationSettings:
    """Returns the migration job's settings; its user is by default the service's. Raises SettingsError."""
    return load(_read_migration_settings)


def load(read: Callable[[FileAwareEnv], _T]) -> _T:
    """Returns what `read` makes of the environment and .quartenv. Raises SettingsError."""
    try:
        quartenv.load(ROOT / ".quartenv")
        return read(FileAwareEnv(strip_whitespace=True))
    except (EnvError, ValueError) as error:
        raise SettingsError(
            f"{str(error).rstrip('.')} (settings come from the environment or .quartenv; see .quartenv.example)"
        ) from None


def _read_settings(env: FileAwareEnv) -> Settings:
    database = _read_database(env, username=_text(env, "DB_USERNAME"), password=_text(env, "DB_PASSWORD"))
    environment = cast(
        "Literal['production', 'development']",
        env.str("QUART_ENV", "production", validate=validate.OneOf(("production", "development"))),
    )
    settings = Settings(
        environment=environment,
        version=env.str("APP_VERSION", "", validate=_text_of("A-Za-z0-9._+-")),
        version_header=env.str("VERSION_HEADER", "", validate=_text_of("A-Za-z0-9-")),
        secret_key=env.str("SECRET_KEY", validate=_length(minimum=16)),
        secret_key_fallbacks=tuple(env.list("SECRET_KEY_FALLBACKS", [], validate=_keys)),
        log_level=_log_level(env),
        sentry_dsn=env.str("SENTRY_DSN", "", validate=_dsn),
        workers=_workers(env),
        request_timeout=env.float("REQUEST_TIMEOUT", 15.0, validate=between(0.1, 25)),
        body_timeout=env.float("BODY_TIMEOUT", 10.0, validate=between(0.1, 25)),
        shutdown_delay=env.float("SHUTDOWN_DELAY", 0.0, validate=between(0, 60)),
        event_heartbeat=env.float("EVENT_HEARTBEAT", 15.0, validate=between(0.1, 300)),
        max_body_size=env.int("MAX_BODY_SIZE", 65_536, validate=between(1_024, 1_073_741_824)),
        api_tokens_required=env.bool("API_TOKENS_REQUIRED", environment == "production"),
        api_tokens=parse_tokens(env.str("API_TOKENS", "")),
        metrics=env.bool("METRICS", True),
        metrics_directory=ROOT / env.str("METRICS_DIRECTORY", ".run/metrics", validate=_length()),
        cors_origins=tuple(env.list("CORS_ORIGINS", [], validate=_origins)),
        trusted_proxies=tuple(env.list("TRUSTED_PROXIES", ["127.0.0.1", "::1"], validate=_proxies)),
        database=database,
    )
    if settings.request_timeout <= database.statement_timeout:
        raise ValueError("REQUEST_TIMEOUT must be longer than DB_STATEMENT_TIMEOUT")
    return settings


def _workers(env: FileAwareEnv) -> int:
    """Whoever starts a replica makes a number of `auto`; left is Hypercorn's own command, with hypercorn.toml's."""
    return 2 if env.str("WORKERS", "auto") == "auto" else env.int("WORKERS", validate=between(1, 256))


def _read_migration_settings(env: FileAwareEnv) -> MigrationSettings:
    own_user = "MIGRATION_DB_USERNAME" in os.environ or "MIGRATION_DB_USERNAME_FILE" in os.environ
    user = "MIGRATION_DB" if own_user else "DB"
    return MigrationSettings(
        log_level=_log_level(env),
        wait_timeout=env.float("MIGRATION_WAIT_TIMEOUT", 60.0, validate=between(0, 3_600)),
        lock_timeout=env.int("MIGRATION_LOCK_TIMEOUT", 60, validate=between(1, 3_600)),
        attempts=env.int("MIGRATION_ATTEMPTS", 10, validate=between(1, 1_000)),
        database=_read_database(env, username=_text(env, f"{user}_USERNAME"), password=_text(env, f"{user}_PASSWORD")),
    )


def _read_database(env: FileAwareEnv, *, username: str, password: str) -> DatabaseSettings:
    database = DatabaseSettings(
        host=_text(env, "DB_HOST"),
        port=env.int("DB_PORT", 3306, validate=between(1, 65_535)),
        name=env.str("DATABASE_NAME", "tally", validate=_length(maximum=50)),
        username=username,
        password=password,
        connect_timeout=env.float("DB_CONNECT_TIMEOUT", 3.0, validate=between(0.1, 60)),
        lock_timeout=env.int("DB_LOCK_TIMEOUT", 3, validate=between(1, 60)),
        statement_timeout=env.float("DB_STATEMENT_TIMEOUT", 5.0, validate=between(0.1, 60)),
        idle_timeout=env.int("DB_IDLE_TIMEOUT", 60, validate=between(5, 28_800)),
        pool_size=env.int("DB_POOL_SIZE", 10, validate=between(1, 1_000)),
        pool_timeout=env.float("DB_POOL_TIMEOUT", 5.0, validate=between(0.1, 60)),
        durability=cast(
            "Literal['strict', 'relaxed']",
            env.str("DURABILITY", "strict", validate=validate.OneOf(("strict", "relaxed"))),
        ),
        tls=tls.make_context(
            env.str("DB_SSL_MODE", "DISABLED", validate=validate.OneOf(tls.MODES)),
            *(env.str(name, "") for name in ("DB_SSL_CA", "DB_SSL_CERT", "DB_SSL_KEY")),
        ),
    )
    if database.statement_timeout <= database.lock_timeout:
        raise ValueError("DB_STATEMENT_TIMEOUT must be longer than DB_LOCK_TIMEOUT")
    if database.idle_timeout <= database.statement_timeout:
        raise ValueError("DB_IDLE_TIMEOUT must be longer than DB_STATEMENT_TIMEOUT")
    return database


def _text(env: FileAwareEnv, name: str) -> str:
    return env.str(name, validate=_length())


def _log_level(env: FileAwareEnv) -> str:
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    return env.str("LOG_LEVEL", "INFO", validate=validate.OneOf(levels))


def _length(minimum: int = 1, maximum: int | None = None) -> validate.Length:
    wanted = f"at least {minimum} characters" if maximum is None else f"{minimum} to {maximum} characters"
    return validate.Length(minimum, maximum, error=f"it must have {wanted}")


def _text_of(characters: str) -> validate.Regexp:
    return validate.Regexp(rf"[{characters}]*\Z", error=f"it may have the characters {characters} only")


def between(low: float, high: float) -> validate.Range:
    """Returns a validator for numbers between these, both included."""
    return validate.Range(low, high, error="it must be from {min} to {max}")


def _dsn(value: str) -> None:
    if value and re.fullmatch(r"https?://[0-9A-Za-z]+@[^\s/?#]+/\S*\d+", value) is None:
        raise ValidationError("it must be what Sentry calls the DSN, https://KEY@HOST/NUMBER")


def _keys(values: list[str]) -> None:
    for value in values:
        _length(minimum=16)(value)


def _origins(values: list[str]) -> None:
    if any(
        re.fullmatch(r"\*|https?://[A-Za-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-fA-F:]+\](:[0-9]+)?", one) is None
        for one in values
    ):
        raise ValidationError("it must be origins (https://example.org, without a path) with commas between, or *")


def _proxies(values: list[str]) -> None:
    """Each is an address, a network, or a host name (which is looked up when a request comes)."""
    for value in values:
        if not value or any(character.isspace() for character in value):
            raise ValidationError("it must be addresses, networks or host names with commas between")
        if "/" in value:
            try:
                ip_network(value)
            except ValueError:
                raise ValidationError("it holds a network that is malformed") from None
