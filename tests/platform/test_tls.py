"""TLS between the service, the migration job and the database."""

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from harness.certificates import Authority
from harness.compose import docker
from harness.databases import Database, DatabaseServer, make_database, private_mariadb
from harness.processes import Hypercorn, hypercorn, is_ready, wait_until
from service.platform import tls
from service.platform.settings import ROOT
from tests.conftest import SECRET_KEY, Start, migrate
from tests.migrations.test_migrations import alembic
from tests.platform.test_health import readiness

WAY_OUT = "correct DB_SSL_MODE, DB_SSL_CA or DB_HOST, or the server's certificate."


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def secured(
    authority: Authority, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """A migrated database on a MariaDB that takes encrypted connections only."""
    certificate, key = authority.make("server")
    options = [f"--ssl-ca={authority.certificate}", f"--ssl-cert={certificate}", f"--ssl-key={key}"]
    options += ["--require-secure-transport=ON"]
    with private_mariadb(tmp_path_factory.mktemp("mariadb"), None, *options) as server:
        database = make_database(server)
        migrate({**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY, "DB_SSL_MODE": "REQUIRED"})
        yield database


@pytest.fixture
def settings(secured: Database, plain_environment: dict[str, str], authority: Authority) -> dict[str, str]:
    """The environment in which everything about the server's certificate is verified, and right."""
    return {
        **plain_environment,
        **secured.environment,
        "SECRET_KEY": SECRET_KEY,
        "DB_HOST": "localhost",
        "DB_SSL_MODE": "VERIFY_IDENTITY",
        "DB_SSL_CA": str(authority.certificate),
    }


@contextmanager
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Hypercorn]:
    with hypercorn(environment, tmp_path / "log", app="tests.platform.probe:app", workers=1) as running:
        yield running


def assert_refused(environment: dict[str, str], tmp_path: Path, reason: str) -> None:
    """Fails unless the service is not ready, and the job ends at once, both with the reason and the way out."""
    with service(environment, tmp_path) as running:
        status, detail = readiness(running)
        assert (status, detail) == (503, f"The database cannot be used (no TLS: {reason}): {WAY_OUT}")
    job = alembic(environment, "current")
    address = f"{environment['DB_HOST']}:{environment['DB_PORT']}"
    assert job.stderr.splitlines()[-1] == f"No TLS with the database at {address} ({reason}): {WAY_OUT}"
    assert job.returncode == 77


@pytest.mark.parametrize(
    ("mode", "host"),
    [("REQUIRED", "127.0.0.1"), ("VERIFY_CA", "127.0.0.1"), ("VERIFY_IDENTITY", "localhost")],
)
def test_sessions_are_encrypted(settings: dict[str, str], tmp_path: Path, mode: str, host: str) -> None:
    own = {**settings, "DB_SSL_MODE": mode, "DB_HOST": host, "DB_SSL_CA": settings["DB_SSL_CA"] * (mode != "REQUIRED")}
    with service(own, tmp_path) as running:
        wait_until(lambda: is_ready(running), process=running.process, log=running.log)
        sql = "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_version'"
        assert httpx.get(f"{running.url}/probe/query", params={"sql": sql}).text == "TLSv1.3"
        assert httpx.get(running.url).status_code == 200
        assert httpx.get(running.url).status_code == 200
    assert alembic(own, "current").returncode == 0


def test_another_authority_is_not_believed(settings: dict[str, str], tmp_path: Path) -> None:
    other = Authority(tmp_path, "authority")
    own = {**settings, "DB_SSL_CA": str(other.certificate)}
    assert_refused(own, tmp_path, "self-signed certificate in certificate chain")
    assert_refused({**settings, "DB_SSL_CA": ""}, tmp_path, "self-signed certificate in certificate chain")


def test_a_certificate_for_another_name_is_not_believed(settings: dict[str, str], tmp_path: Path) -> None:
    own = {**settings, "DB_HOST": "127.0.0.1"}
    assert_refused(own, tmp_path, "ip address mismatch, certificate is not valid for '127.0.0.1'.")


def test_an_expired_certificate_is_not_believed(
    settings: dict[str, str], secured: Database, authority: Authority, tmp_path: Path
) -> None:
    authority.make("server", days=-1)
    secured.server.execute("FLUSH SSL")
    try:
        assert_refused(settings, tmp_path, "certificate has expired")
    finally:
        authority.make("server")
        secured.server.execute("FLUSH SSL")


def test_a_user_who_must_show_a_certificate_does(
    settings: dict[str, str], secured: Database, authority: Authority, tmp_path: Path
) -> None:
    user = secured.environment["DB_USERNAME"]
    secured.server.execute(f"ALTER USER '{user}'@'%' REQUIRE X509")
    try:
        with service(settings, tmp_path) as running:
            status, detail = readiness(running)
            assert status == 503
            assert "error 1045" in detail
        certificate, key = authority.make("client", "client")
        own = {**settings, "DB_SSL_CERT": str(certificate), "DB_SSL_KEY": str(key)}
        with service(own, tmp_path) as running:
            wait_until(lambda: is_ready(running), process=running.process, log=running.log)
    finally:
        secured.server.execute(f"ALTER USER '{user}'@'%' REQUIRE NONE")


def test_a_server_that_takes_encrypted_connections_only_says_so(database: Database, start: Start) -> None:
    if "MariaDB" in str(database.server.execute("SELECT VERSION()")):
        pytest.skip("it is not told of TLS here")
    with database.server.variables(require_secure_transport=1):
        unset = start(ready=False)
        detail = "The database cannot be used (error 3159): it takes encrypted connections only; set DB_SSL_MODE."
        assert readiness(unset) == (503, detail)
        encrypted = start(DB_SSL_MODE="REQUIRED")
        assert httpx.get(encrypted.url).status_code == 200
        wrong = start(ready=False, DB_SSL_MODE="VERIFY_CA")
        assert "self-signed certificate in certificate chain" in readiness(wrong)[1]


@contextmanager
def shown_by_mysql(server: DatabaseServer, *files: Path) -> Iterator[None]:
    """Has the MySQL container show another certificate: the authority's, its own and the key to it."""
    (container,) = docker("ps", "--quiet", "--filter", f"publish={server.port}").split()
    for file in files:
        copy = ["docker", "exec", "--interactive", "--user", "mysql", container, "tee", f"/var/lib/mysql/{file.name}"]
        subprocess.run(copy, input=file.read_bytes(), stdout=subprocess.DEVNULL, check=True)
    try:
        with server.variables(**dict(zip(("ssl_ca", "ssl_cert", "ssl_key"), (one.name for one in files), strict=True))):
            server.execute("ALTER INSTANCE RELOAD TLS")
            yield
    finally:
        server.execute("ALTER INSTANCE RELOAD TLS")


def test_a_certificate_of_mysqls_for_another_name_or_that_has_expired_is_not_believed(
    database: Database, environment: dict[str, str], authority: Authority, tmp_path: Path
) -> None:
    if "MariaDB" in str(database.server.execute("SELECT VERSION()")):
        pytest.skip("it is tried above")
    verified = {**environment, "DB_SSL_MODE": "VERIFY_IDENTITY", "DB_SSL_CA": str(authority.certificate)}
    with shown_by_mysql(database.server, authority.certificate, *authority.make("mysql")):
        assert_refused(verified, tmp_path, "ip address mismatch, certificate is not valid for '127.0.0.1'.")
        with service({**verified, "DB_HOST": "localhost"}, tmp_path) as running:
            wait_until(lambda: is_ready(running), process=running.process, log=running.log)
    ends = time.time() + 5  # MySQL loads none that has expired
    with shown_by_mysql(database.server, authority.certificate, *authority.make("mysql", days=5 / 86_400)):
        wait_until(lambda: time.time() > ends)
        assert_refused({**verified, "DB_HOST": "localhost"}, tmp_path, "certificate has expired")


def test_a_mariadb_that_takes_encrypted_connections_only_says_so(settings: dict[str, str], tmp_path: Path) -> None:
    with service({**settings, "DB_SSL_MODE": "DISABLED", "DB_SSL_CA": ""}, tmp_path) as running:
        status, detail = readiness(running)
    assert (status, "set DB_SSL_MODE." in detail) == (503, True), detail


def test_a_backup_is_made_of_a_server_that_takes_encrypted_connections_only(
    settings: dict[str, str], secured: Database, tmp_path: Path
) -> None:
    ((data,),) = secured.server.execute("SELECT @@datadir")
    (tmp_path / "password").write_text(settings["DB_PASSWORD"])
    own = {
        **settings,
        "DB_HOST": "127.0.0.1",  # as natively; "localhost" is a socket
        "BACKUP_DB_USERNAME": f"{settings['DB_USERNAME']}_b",
        "BACKUP_DB_PASSWORD_FILE": str(tmp_path / "password"),
        "BACKUP_DIRECTORY": str(tmp_path / "place"),
        "DATA_DIRECTORY": data,
    }
    (tmp_path / "place").mkdir()
    backup = [sys.executable, "-m", "deploy.backup", "take"]
    ended = subprocess.run(backup, cwd=ROOT, env=own, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_the_client_of_run_db_is_encrypted_and_believes_no_other_authority(
    settings: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copy(ROOT / "run", tmp_path)
    state = tmp_path / ".run"
    state.mkdir()
    (state / "environment").touch()  # the settings of what runs, which here are in the environment
    other = Authority(tmp_path, "authority")
    command: list[str | Path] = [tmp_path / "run", "db", "-Ne", "SHOW STATUS LIKE 'Ssl_version'"]
    with (state / "running").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for authority, code, said in (settings["DB_SSL_CA"], 0, "TLSv1.3"), (str(other.certificate), 1, "ERROR 2026"):
            ended = subprocess.run(command, env={**settings, "DB_SSL_CA": authority}, capture_output=True, text=True)
            assert (ended.returncode, said in ended.stdout + ended.stderr) == (code, True), ended.stderr


def test_a_server_without_tls_is_refused_before_a_password_is_sent(
    database: Database, environment: dict[str, str], start: Start
) -> None:
    if "MariaDB" not in str(database.server.execute("SELECT VERSION()")):
        pytest.skip("it has TLS")
    if database.server.execute("SELECT @@have_ssl") == [("YES",)]:
        pytest.skip("it makes certificates itself")
    running = start(ready=False, DB_SSL_MODE="REQUIRED")
    assert readiness(running) == (503, f"The database cannot be used (no TLS: the server offers none): {WAY_OUT}")
    job = alembic({**environment, "DB_SSL_MODE": "REQUIRED"}, "current")
    assert "(error 2026: SSL is required but the server doesn't support it): correct DB_SSL_MODE" in job.stderr
    assert job.returncode == 77


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("DISABLED", "ca.pem", "", ""), "need DB_SSL_MODE"),
        (("REQUIRED", "ca.pem", "", ""), "believes any certificate"),
        (("REQUIRED", "", "client.pem", ""), "go together"),
        (("VERIFY_CA", "nowhere.pem", "", ""), "DB_SSL_CA=nowhere.pem cannot be used: .*No such file"),
        (("VERIFY_CA", str(ROOT / "README.md"), "", ""), "DB_SSL_CA=.* cannot be used"),
        (("REQUIRED", "", "nowhere.pem", "nowhere.key"), "DB_SSL_CERT=nowhere.pem .* cannot be used"),
    ],
)
def test_files_that_cannot_be_used_are_named(given: tuple[str, str, str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tls.make_context(*given)
