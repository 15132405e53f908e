"""An ACME server on this machine: pebble, which asks a port of 127.0.0.1 for the challenges of every name."""

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.certificates import Authority
from harness.processes import free_port, stop, wait_until


@dataclass(frozen=True)
class Acme:
    """A running pebble."""

    directory_url: str
    authority: Path
    """The certificate that its own HTTPS is to be believed by."""
    management_url: str

    def root(self) -> str:
        """Returns the certificate of the authority that it issues by."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority)
        return httpx.get(f"{self.management_url}/roots/0", verify=context).text


@contextmanager
def acme(directory: Path, http_port: int, address: str = "127.0.0.1") -> Iterator[Acme]:
    """Runs pebble until the end of the block; it listens on the address, and asks `http_port` for challenges."""
    authority = Authority(directory, "acme")
    certificate, key = authority.make("pebble", address=address)
    port, management, dns = free_port(), free_port(), free_port()
    settings = {
        "listenAddress": f"{address}:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": http_port,
        "tlsPort": free_port(),
    }
    (directory / "pebble.json").write_text(json.dumps({"pebble": settings}))
    log = directory / "log"
    names = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    names += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{free_port()}"]
    server = ["pebble", "-config", str(directory / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"]
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with log.open("a") as file, ExitStack() as stack:
        for command in names, server:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
            stack.callback(stop, process)
        wait_until(lambda: "ACME directory available at" in log.read_text(), process=process, log=log)
        yield Acme(f"https://{address}:{port}/dir", authority.certificate, f"https://localhost:{management}")
