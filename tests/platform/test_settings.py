import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.platform.settings import ROOT, SettingsError, load_migration_settings, load_settings

NEEDED = {
    "SECRET_KEY": "0123456789abcdef",
    "DB_HOST": "db.example",
    "DB_USERNAME": "service",
    "DB_PASSWORD": "p%w@d:/",
}


@pytest.fixture(autouse=True)
def only_what_is_needed(monkeypatch: pytest.MonkeyPatch, plain_environment: dict[str, str]) -> None:
    for name in set(documented()):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**plain_environment, **NEEDED}.items():
        monkeypatch.setenv(name, value)


def documented() -> list[str]:
    return re.findall(r"^#?([A-Z_]+)=", (ROOT / ".quartenv.example").read_text(), re.MULTILINE)


def test_what_has_a_default_need_not_be_set() -> None:
    settings = load_settings()
    assert (settings.environment, settings.workers, settings.database.port) == ("production", 2, 3306)
    assert settings.database.name == "tally"
    assert settings.workers == tomllib.loads((ROOT / "hypercorn.toml").read_text())["workers"]
    assert settings.trusted_proxies == ("127.0.0.1", "::1")


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_setting_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=f'"{name}" not set.*quartenv.example'):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", "short"),
        ("QUART_ENV", "staging"),
        ("LOG_LEVEL", "LOUD"),
        ("WORKERS", "two"),
        ("WORKERS", "0"),
        ("WORKERS", "-1"),
        ("WORKERS", ""),
        ("DB_PORT", "99999"),
        ("DB_POOL_SIZE", "1.5"),
        ("DB_POOL_TIMEOUT", "5s"),
        ("REQUEST_TIMEOUT", "26"),
        ("MAX_BODY_SIZE", "64k"),
        ("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/99"),
        ("TRUSTED_PROXIES", "127.0.0.1,,::1"),
        ("CORS_ORIGINS", "https://example.org/"),
        ("CORS_ORIGINS", "friend.example"),
        ("APP_VERSION", "of today"),
        ("SECRET_KEY_FALLBACKS", "0123456789abcdef,short"),
        ("VERSION_HEADER", "X-Version: 1"),
        *((name, "") for name in ("DB_HOST", "DB_USERNAME", "DB_PASSWORD", "DATABASE_NAME", "DB_PORT", "QUART_ENV")),
    ],
)
def test_a_malformed_or_empty_setting_is_named_and_its_value_not_shown(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as raised:
        load_settings()
    assert not value or value not in str(raised.value).replace(name, "")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"), [("DB_LOCK_TIMEOUT", "5"), ("DB_STATEMENT_TIMEOUT", "15"), ("DB_IDLE_TIMEOUT", "5")]
)
def test_time_outs_that_contradict_each_other_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}|DB_STATEMENT_TIMEOUT"):
        load_settings()


def test_a_setting_may_be_a_file_which_goes_before_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("from the file\n")
    monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "password"))
    assert load_settings().database.password == "from the file"


def test_a_file_that_cannot_be_read_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD_FILE", "/nowhere/password")
    with pytest.raises(SettingsError, match="DB_PASSWORD_FILE must be a readable file"):
        load_settings()


def test_secrets_are_not_in_the_settings_text() -> None:
    text = repr(load_settings())
    assert NEEDED["DB_PASSWORD"] not in text
    assert NEEDED["SECRET_KEY"] not in text


def test_the_migration_job_uses_its_own_user_or_else_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY")
    assert load_migration_settings().database.username == "service"
    monkeypatch.setenv("MIGRATION_DB_USERNAME", "migration")
    with pytest.raises(SettingsError, match="MIGRATION_DB_PASSWORD"):
        load_migration_settings()
    monkeypatch.setenv("MIGRATION_DB_PASSWORD", "other")
    assert load_migration_settings().database.username == "migration"


def test_the_example_names_every_setting_with_its_default_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(path.read_text() for path in (ROOT / "service").rglob("settings.py"))
    read = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+|WORKERS|DURABILITY|METRICS)"', source)) - {
        "MIGRATION_DB",
        "MIGRATION_DB_USERNAME_FILE",
    }
    elsewhere = {"QUART_APP", "MYSQL_ROOT_PASSWORD", "HTTP_ADDRESS", "HTTP_PORT", "TRUSTED_BALANCERS"}
    elsewhere |= {
        "RATE_LIMIT",
        "RATE_LIMIT_BURST",
        "HTTPS_PORT",
        "HSTS_MAX_AGE",
        "WEB_REPLICAS",
        "IMAGE_NAME",
        "IMAGE_TAG",
        "NGINX_TAG",
        "MYSQL_TAG",
        "HEALTH_PATH",
        "PYTHON_IMAGE",
        "MYSQL_IMAGE",
        "NGINX_IMAGE",
        "BACKUP_DIRECTORY",
        "BACKUP_RETENTION",
        "BACKUP_MAX_SIZE",
        "BINARY_LOG_MAX_SIZE",
        "DATA_VOLUME",
        "WEB_PORT",
        "DEBUGGER_PORT",
        "EXPORTER_PORT",
        "PROMETHEUS_PORT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }
    assert set(documented()) == read | {"MIGRATION_DB_PASSWORD"} | elsewhere
    before = load_settings()
    for name, value in re.findall(r"^#([A-Z_]+)=(.+)", (ROOT / ".quartenv.example").read_text(), re.MULTILINE):
        if name not in NEEDED:
            monkeypatch.setenv(name, value)
    assert load_settings() == before


def test_quartenv_fills_what_the_environment_lacks(tmp_path: Path, plain_environment: dict[str, str]) -> None:
    shutil.copytree(ROOT / "service", tmp_path / "service")
    lines = [f"{name}='{value}'" for name, value in NEEDED.items()]
    (tmp_path / ".quartenv").write_text("\n".join([*lines, "WORKERS=7", "DB_PORT=3307"]))
    environment = {**plain_environment, "PYTHON_DOTENV_DISABLED": "0", "DB_PORT": "3308"}
    script = "from service.platform.settings import *; s = load_settings(); print(s.workers, s.database.port)"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["7", "3308"]


@pytest.mark.parametrize("command", [["hypercorn", "service.asgi:app"], ["alembic", "current"], ["quart", "routes"]])
def test_a_missing_setting_stops_each_command_with_one_sentence(
    command: list[str], plain_environment: dict[str, str]
) -> None:
    environment = {**plain_environment, **NEEDED, "QUART_APP": "service.asgi:app"}
    del environment["DB_HOST"]
    ended = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    # Hypercorn 0.18 ends with 0 when a worker could not start: what runs it must always start it anew.
    assert ended.returncode != 0 or command[0] == "hypercorn"
    lines = [line for line in ended.stderr.splitlines() if line]
    assert all('"DB_HOST" not set' in line for line in lines), ended.stderr
    assert "Traceback" not in ended.stderr
