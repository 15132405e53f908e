"""A certificate authority, and the certificates that it issues, as files in PEM."""

import datetime as dt
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SIGNS = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority that writes what it makes to a folder; below another one where that is named."""

    def __init__(self, folder: Path, name: str, above: "Authority | None" = None) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = folder / f"{name}.pem"
        issuer = above or self
        made = issuer._builder(self._name, self._key, (-2, 100))
        made = made.add_extension(x509.BasicConstraints(True, None), critical=True)
        made = made.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        ).add_extension(_SIGNS, critical=True)
        issuer._write(self.certificate, made)

    def make(
        self, name: str, host: str = "localhost", days: float = 1, begins: int = -2, address: str = ""
    ) -> tuple[Path, Path]:
        """Makes a certificate for the host, and the address if one is named; returns its file and that of its key.

        It is valid from so many days from now on, and until so many days from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = self._builder(subject, key, (begins, days))
        names = [x509.DNSName(host), *([x509.IPAddress(ip_address(address))] if address else [])]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write(self._folder / f"{name}.pem", made)
        (self._folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, float]
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=days[0]))
            .not_valid_after(now + dt.timedelta(days=days[1]))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _write(self, file: Path, builder: x509.CertificateBuilder) -> None:
        file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
