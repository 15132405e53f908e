"""Stores the certificate with which nginx serves, once it has checked it: what nginx finds is always good.

The chain and its key are one file, so that they are replaced together. What is refused changes nothing.
"""

import argparse
import datetime as dt
import ipaddress
import os
import re
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

FILE = "certificate.pem"
SOON = 14
"""Days before its end from which a certificate is warned about."""
TRIAL = 90
"""Days for which a self-signed certificate is made."""

_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----.*?-----END ([A-Z]+ )*PRIVATE KEY-----", re.DOTALL)


class Refused(Exception):
    """Its text is the sentence that says why."""


@dataclass(frozen=True)
class Chain:
    """A server's certificate, and those that lead to its root; and what PEM text it is from."""

    certificates: list[x509.Certificate]
    pem: bytes

    @property
    def own(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def names(self) -> list[str]:
        """The hosts for which it is."""
        try:
            found = self.own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        addresses = map(str, found.get_values_for_type(x509.IPAddress))
        return [*found.get_values_for_type(x509.DNSName), *addresses]

    @property
    def is_self_signed(self) -> bool:
        return self.own.issuer == self.own.subject

    @property
    def end(self) -> dt.datetime:
        """When the first of its certificates ends."""
        return min(certificate.not_valid_after_utc for certificate in self.certificates)

    @property
    def days(self) -> int:
        """The whole days until it ends; negative when it has ended."""
        return (self.end - dt.datetime.now(dt.UTC)).days

    def __str__(self) -> str:
        issuer = "itself" if self.is_self_signed else _common_name(self.own.issuer)
        return f"for {', '.join(self.names)}, by {issuer}, ends {self.end:%Y-%m-%d %H:%M} UTC"


def read(pem: bytes) -> Chain:
    """Returns the chain in the PEM text. Raises Refused if there is none."""
    try:
        return Chain(x509.load_pem_x509_certificates(pem), pem)
    except ValueError:
        raise Refused("There is no certificate in PEM in what was given") from None


def check(pem: bytes) -> Chain:
    """Returns the chain in the PEM text if a server can serve with it and its key there. Raises Refused if not."""
    chain = read(pem)
    _check_key(chain)
    now = dt.datetime.now(dt.UTC)
    for certificate in chain.certificates:
        name = _common_name(certificate.subject)
        if certificate.not_valid_after_utc < now:
            raise Refused(f"The certificate of {name} has expired, on {certificate.not_valid_after_utc:%Y-%m-%d}")
        if certificate.not_valid_before_utc > now:
            raise Refused(f"The certificate of {name} is not valid before {certificate.not_valid_before_utc} UTC")
    for certificate, issuer in zip(chain.certificates, chain.certificates[1:], strict=False):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            raise Refused(
                f"The chain is not in order: {_common_name(issuer.subject)} did not issue the one before it, "
                f"{_common_name(certificate.subject)}"
            ) from None
    if not chain.names:
        raise Refused("The certificate names no host (subjectAltName), so browsers refuse it")
    return chain


def _check_key(chain: Chain) -> None:
    found = {match[0] for match in _KEY.finditer(chain.pem)}
    if len(found) != 1:
        raise Refused(f"One private key in PEM is needed, and {len(found)} were given")
    try:
        public = serialization.load_pem_private_key(found.pop(), None).public_key()
    except TypeError:
        raise Refused("The key is encrypted: give it without a passphrase, which nobody could enter") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Refused("The key cannot be read: it is damaged, or of a kind that is not known") from None
    if public != chain.own.public_key():
        others = [one for one in chain.certificates if one.public_key() == public]
        hint = f": {_common_name(others[0].subject)}, to which it does, must be the first" if others else ""
        raise Refused(f"The key does not belong to the certificate of {_common_name(chain.own.subject)}{hint}")


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string() or "no name"


def store(directory: Path, pem: bytes) -> Chain:
    """Checks the PEM text and has nginx find it in the directory. Raises Refused, and then has changed nothing."""
    chain = check(pem)
    directory.mkdir(mode=0o700, exist_ok=True)
    _give_to_the_owner_of(directory.parent, directory)
    new = directory / f"{FILE}.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(new)  # as nginx does
    except ssl.SSLError as error:
        new.unlink()
        raise Refused(f"OpenSSL refuses it ({error.reason})") from None
    _give_to_the_owner_of(directory, new)
    new.replace(directory / FILE)
    return chain


def _give_to_the_owner_of(other: Path, path: Path) -> None:
    """By root, who alone may read many a key: nginx may run as somebody else."""
    if os.geteuid() == 0:
        owner = other.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def stored(directory: Path) -> Chain | None:
    """Returns what nginx finds in the directory."""
    try:
        return read((directory / FILE).read_bytes())
    except FileNotFoundError:
        return None


def self_signed(names: list[str]) -> bytes:
    """Returns a new certificate for the hosts, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=TRIAL))
        .add_extension(x509.SubjectAlternativeName([_general_name(one) for one in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, form, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(encoding) + key.private_bytes(encoding, form, plain)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def show(directory: Path) -> None:
    """Prints what nginx finds and when it ends. Raises Refused if that is nothing, or soon."""
    chain = stored(directory)
    if chain is None:
        raise Refused("There is no certificate")
    print(f"The certificate {chain} ({chain.days} days).")
    if chain.days < SOON:
        raise Refused(f"It ends in less than {SOON} days, or has ended: renew it")


def replace_by_self_signed(directory: Path, names: list[str]) -> Chain:
    """Stores a self-signed one. Raises Refused where it would replace one of a CA that has not ended."""
    former = stored(directory)
    if former and not former.is_self_signed and former.days >= 0:
        raise Refused(f"A self-signed certificate is for trying it out, and there is one {former}")
    return store(directory, self_signed(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--self-signed", nargs="*", metavar="NAME", help="make one for trying it out, for these hosts")
    what.add_argument("--show", action="store_true", help=f"1 if it ends within {SOON} days; else chain and key: stdin")
    arguments = parser.parse_args()
    try:
        if arguments.show:
            show(arguments.directory)
            return
        if arguments.self_signed is None:
            chain = store(arguments.directory, sys.stdin.buffer.read())
        else:
            names = arguments.self_signed or ["localhost", "127.0.0.1", "::1"]
            chain = replace_by_self_signed(arguments.directory, names)
    except Refused as refused:
        sys.exit(f"{refused}." if arguments.show else f"{refused}. Nothing was changed.")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}. Nothing was changed.")
    print(f"The certificate {chain} ({chain.days} days).")
    if len(chain.certificates) == 1 and not chain.is_self_signed:
        print(
            f"No intermediate certificate is with it: only clients that know {_common_name(chain.own.issuer)} take it."
        )


if __name__ == "__main__":
    main()
