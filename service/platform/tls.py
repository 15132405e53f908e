"""TLS to the database: what the settings say, as a context for both drivers."""

import ssl
from typing import Final

MODES: Final = ("DISABLED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
"""Those of --ssl-mode of MySQL's own clients, but for PREFERRED, which anybody on the way can turn off."""


def make_context(mode: str, ca: str, certificate: str, key: str) -> ssl.SSLContext | None:
    """Returns the context for a mode of MODES, None for DISABLED.

    The others are paths of files in PEM, "" for none: without a CA, the system's are believed. `certificate` and `key`
    are the client's. Raises ValueError, which names the setting, if a file cannot be used.
    """
    if mode == "DISABLED":
        if ca or certificate or key:
            raise ValueError("DB_SSL_CA, DB_SSL_CERT and DB_SSL_KEY need DB_SSL_MODE, best VERIFY_IDENTITY")
        return None
    if mode == "REQUIRED" and ca:
        raise ValueError("DB_SSL_CA needs DB_SSL_MODE=VERIFY_CA or VERIFY_IDENTITY: REQUIRED believes any certificate")
    if bool(certificate) != bool(key):
        raise ValueError("DB_SSL_CERT and DB_SSL_KEY go together")
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ValueError) as error:
        raise ValueError(f"DB_SSL_CA={ca} cannot be used: {error}") from None
    # Python 3.13 asks for extensions that the certificates which MySQL makes for itself lack; PyMySQL does the same.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "VERIFY_IDENTITY"
    context.verify_mode = ssl.CERT_NONE if mode == "REQUIRED" else ssl.CERT_REQUIRED
    if certificate:
        try:
            context.load_cert_chain(certificate, key, password=_refuse_password)
        except (OSError, ValueError) as error:
            raise ValueError(f"DB_SSL_CERT={certificate} and DB_SSL_KEY={key} cannot be used: {error}") from None
    return context


def _refuse_password() -> str:
    """A key with a password would otherwise be asked for at a terminal."""
    raise ValueError("the key has a password, which cannot be given")


def reason(error: BaseException | None) -> str | None:
    """Returns why TLS failed, if that is what the error is about or comes from; None if it is not."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return str(getattr(error, "verify_message", "") or error.reason or error).lower().replace("_", " ")
        error = error.__cause__ or getattr(error, "original_exception", None)
    return None
