"""TLS in an installation by `./run up`, and the certificates that `./run certificate` stores there."""

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.acme import Acme, acme
from harness.certificates import Authority
from harness.native import Installation, installation
from harness.processes import free_port, wait_until

pytestmark = pytest.mark.native


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, plain_environment: dict[str, str]) -> Iterator[Installation]:
    """An installation that serves with a self-signed certificate at first."""
    folder = tmp_path_factory.mktemp("a folder") / "with $paces"
    with installation(folder, plain_environment, HTTPS_PORT=str(free_port())) as made:
        refused = made.run("./run", "up")
        assert refused.returncode == 1
        assert "run: HTTPS_PORT is set, but there is no certificate: " in refused.stdout
        assert made.processes() == []
        prepared = made.run("./run", "certificate", "--native", "--self-signed")
        assert prepared.returncode == 0, prepared.stdout
        made.up()
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def served(made: Installation) -> str:
    """Returns the certificate that a new connection is shown, in PEM."""
    return ssl.get_server_certificate(("127.0.0.1", made.tls_port), timeout=10)


def next_served(made: Installation, former: str) -> str:
    """Returns the first certificate other than `former`, once nginx's former workers take no connections any more."""

    def shown() -> set[str]:
        return {served(made) for _ in range(5)}

    wait_until(lambda: former not in shown())
    return served(made)


def test_it_says_where_it_answers_and_until_when_its_certificate_is(running: Installation) -> None:
    said = running.output.read_text()
    assert f"it answers on https://127.0.0.1:{running.tls_port} " in said
    assert "The certificate for localhost, 127.0.0.1, ::1, by itself, ends 2" in said
    shown = running.run("./run", "certificate", "--show")
    assert (shown.returncode, shown.stdout.count("\n")) == (0, 1)
    status = running.run("./run", "status").stdout
    assert f"address       https://127.0.0.1:{running.tls_port}\n" in status
    assert "certificate   The certificate for localhost, " in status


def test_a_certificate_is_loaded_while_it_serves_and_a_bad_one_leaves_it(
    running: Installation, authority: Authority, tmp_path: Path
) -> None:
    own, key = authority.make("good", days=20)
    stored = running.run("./run", "certificate", str(own), str(key))
    assert (stored.returncode, stored.stdout.endswith("nginx loads it now.\n")) == (0, True), stored.stdout
    wait_until(lambda: served(running) == own.read_text())
    expired, its_key = authority.make("bad", days=-1)
    for files, why in (
        ((expired, its_key), "has expired"),
        ((own, its_key), "The key does not belong to the certificate"),
        ((own, tmp_path / "none"), f"run: root can read no file {tmp_path}/none"),
    ):
        refused = running.run("./run", "certificate", *map(str, files))
        assert (refused.returncode, refused.stdout.count("\n")) == (1, 1)
        assert why in refused.stdout
        assert refused.stdout.endswith("Nothing was changed.\n")
    assert served(running) == own.read_text()


def test_status_says_that_a_certificate_ends_soon_and_what_to_do(running: Installation, authority: Authority) -> None:
    chain, key = authority.make("ending", days=10)
    assert running.run("./run", "certificate", str(chain), str(key)).returncode == 0
    status = running.run("./run", "status")
    assert status.returncode == 1
    ending = r'^certificate +.* ends .*\n +->  docs/runbook\.md, "A certificate ends"$'
    assert re.search(ending, status.stdout, re.MULTILINE), status.stdout


@pytest.fixture
def pebble(running: Installation, tmp_path: Path) -> Iterator[Acme]:
    with acme(tmp_path, int(running.settings["HTTP_PORT"])) as started:
        yield started


@pytest.mark.acme
def test_an_acme_server_issues_a_certificate_and_again_only_when_it_is_time(
    running: Installation, pebble: Acme
) -> None:
    def ask() -> str:
        options = ["--server", pebble.directory_url, "--agree-tos", "--register-unsafely-without-email"]
        certificate = "./run", "certificate", "--acme", *options, "-d", "site.example", "-d", "www.site.example"
        ended = running.run(*certificate, REQUESTS_CA_BUNDLE=str(pebble.authority))
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    before = served(running)
    assert "The certificate for site.example, www.site.example, by Pebble Intermediate CA" in ask()
    issued = next_served(running, before)
    assert "Certificate not yet due for renewal" in ask()
    assert served(running) == issued
    assert is_believed(running, pebble.root(), "www.site.example")
    failed = running.run("./run", "certificate", "--acme", "--server", "https://127.0.0.1:1/dir", "-d", "x.example")
    assert failed.returncode == 1
    assert failed.stdout.endswith("run: certbot has no certificate; the reason is above. Nothing was changed.\n")
    assert served(running) == issued


def is_believed(made: Installation, root: str, host: str) -> bool:
    """Whether a client that knows the root alone takes the chain that nginx sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root)
    with (
        socket.create_connection(("127.0.0.1", made.tls_port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=host),
    ):
        return True
