"""TLS in the compose stack, and the certificates that `./run certificate` stores for it."""

import http.client
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from harness.acme import acme
from harness.certificates import Authority
from harness.compose import Stack, docker, logged
from harness.processes import free_port, wait_until

pytestmark = pytest.mark.compose

CERTIFICATE = "/run/certificates/certificate.pem"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def secured(stack: Stack, authority: Authority) -> Iterator[Stack]:
    """The stack with TLS, and with a certificate of the authority's; without TLS again at the end."""
    over = stack.over("deploy/compose.tls.yml", HTTPS_PORT=str(free_port()))
    stored = run(over, *map(str, authority.make("first")))
    assert stored.returncode == 0, stored.stderr
    assert stored.stdout.endswith("TLS is off here: the certificate is for when it is on (docs/runbook.md).\n")
    try:
        over.up()
        yield over
    finally:
        stack.up()


def run(stack: Stack, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs ./run certificate in the stack's folder."""
    known = {**stack.environment, "COMPOSE_PROJECT_NAME": stack.project, "COMPOSE_FILE": ":".join(stack.files)}
    return subprocess.run(
        ["./run", "certificate", *arguments],
        cwd=stack.directory,
        env={**known, **environment},
        capture_output=True,
        text=True,
    )


def url(stack: Stack) -> str:
    return f"https://localhost:{stack.environment['HTTPS_PORT']}"


def served(stack: Stack) -> str:
    """Returns the certificate that a new connection is shown, in PEM."""
    return ssl.get_server_certificate(("127.0.0.1", int(stack.environment["HTTPS_PORT"])), timeout=10)


def wait_until_served(stack: Stack, certificate: Path) -> None:
    wait_until(lambda: served(stack) == certificate.read_text())


def believing(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.certificate)
    return context


def test_it_answers_by_https_and_says_where(secured: Stack, authority: Authority) -> None:
    with httpx.Client(verify=believing(authority), http2=True, follow_redirects=True) as client:
        answered = client.get(f"{url(secured)}/livez")
        assert (answered.status_code, answered.http_version) == (200, "HTTP/2")
        assert answered.headers["strict-transport-security"] == "max-age=31536000"
        redirected = client.get(f"http://localhost:{secured.port}/none?a")
        assert [one.status_code for one in redirected.history] == [308]
        assert str(redirected.url) == f"{url(secured)}/none?a"
    (nginx,) = secured.containers("nginx")
    assert f"it answers on https://127.0.0.1:{secured.environment['HTTPS_PORT']}" in logged(nginx)


def test_nginx_alone_can_read_the_certificate_and_cannot_change_it(secured: Stack) -> None:
    (nginx,) = secured.containers("nginx")
    script = f"stat -c '%a %u' {CERTIFICATE}; stat -c '%a %u' /run/certificates; touch /run/certificates/x 2>&1"
    lines = docker("exec", nginx, "sh", "-c", script, check=False).splitlines()
    assert lines[:2] == ["600 101", "700 101"]
    assert "Read-only file system" in lines[2]
    mounted = docker("inspect", "--format", "{{json .Mounts}}", secured.containers("web")[0])
    assert [mount["Destination"] for mount in json.loads(mounted)] == ["/run/secrets"]


def test_another_certificate_is_loaded_and_no_request_fails_and_a_bad_one_leaves_it(
    secured: Stack, authority: Authority, tmp_path: Path
) -> None:
    stopped = Event()

    def ask() -> set[int]:
        """Keeps each connection until nginx says that it closes it: it may close none before."""
        statuses = set()
        while not stopped.is_set():
            port = int(secured.environment["HTTPS_PORT"])
            client = http.client.HTTPSConnection("localhost", port, timeout=60, context=believing(authority))
            client.connect()
            while client.sock and not stopped.is_set():
                client.request("GET", "/livez")
                with client.getresponse() as answered:
                    answered.read()
                    statuses.add(answered.status)
            client.close()
        return statuses

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            for name in ("second", "third", "fourth"):
                own, key = authority.make(name)
                key.chmod(0o600)
                stored = run(secured, str(own), str(key))
                assert (stored.returncode, stored.stdout.endswith("nginx loads it now.\n")) == (0, True), stored.stderr
                wait_until_served(secured, own)
        finally:
            stopped.set()
        assert [one.result() for one in asking] == [{200}] * 4
    refused = run(secured, *map(str, authority.make("bad", days=-1)))
    assert refused.returncode == 1
    assert re.fullmatch(r"The certificate of localhost has expired, on \S+\. Nothing was changed\.\n", refused.stderr)
    missing = run(secured, str(own), str(tmp_path / "none"))
    assert (missing.returncode, missing.stderr) == (
        1,
        f"run: root can read no file {tmp_path}/none. Nothing was changed.\n",
    )
    assert served(secured) == own.read_text()
    shown = run(secured, "--show")
    assert (shown.returncode, shown.stderr) == (1, "It ends in less than 14 days, or has ended: renew it.\n")


def test_without_a_certificate_nginx_says_so_and_serves_once_there_is_one(secured: Stack, authority: Authority) -> None:
    (nginx,) = secured.containers("nginx")
    secured.compose("run", "--rm", "--no-deps", "--entrypoint", "rm", "certificate", CERTIFICATE)
    try:
        docker("restart", "--time", "0", nginx)
        said = "TLS is on, but there is no certificate: give it one by ./run certificate (docs/runbook.md).\n"
        wait_until(lambda: said in logged(nginx))
    finally:
        stored = run(secured, *map(str, authority.make("again")))
    assert stored.returncode == 0, stored.stderr
    wait_until(lambda: secured.status("/livez") == httpx.codes.OK, limit=60)


@pytest.mark.acme
@pytest.mark.rehearsal
def test_an_acme_server_issues_a_certificate(secured: Stack, tmp_path: Path) -> None:
    bridge = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", f"{secured.project}_front")
    with acme(tmp_path, secured.port, bridge.strip()) as pebble:
        # How certbot believes a server of the test is the test's own business.
        believed = {"REQUESTS_CA_BUNDLE": "/authority.pem"}
        certbot = {"environment": believed, "volumes": [f"{pebble.authority}:/authority.pem:ro"]}
        (secured.directory / "acme-of-the-test.yml").write_text(json.dumps({"services": {"certbot": certbot}}))
        pebble.authority.chmod(0o644)
        over = secured.over("acme-of-the-test.yml")
        options = ["--server", pebble.directory_url, "--agree-tos", "--register-unsafely-without-email"]
        before = served(secured)
        for said in "Successfully received certificate", "Certificate not yet due for renewal":
            asked = run(over, "--acme", *options, "-d", "site.example")
            assert asked.returncode == 0, asked.stdout + asked.stderr
            assert said in asked.stdout
            assert "The certificate for site.example, by Pebble Intermediate CA" in asked.stdout
            wait_until(lambda: served(secured) != before)
