"""TLS of the server: the certificate, and the refusal of plain HTTP unless it is allowed.

A certificate is read at the start, and again when the server is told to reload.
"""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedgate.core.errors import ConfigError
from embedgate.settings import ServerSettings

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True, slots=True)
class Certificate:
    """Certificate for HTTPS. `names` are its host names and addresses."""

    context: ssl.SSLContext
    file: Path
    names: Sequence[str]
    is_self_signed: bool

    def renew(self, server: ServerSettings) -> None:
        """Use what the files of the settings hold now, from the next handshake on. Blocks. Raises ConfigError."""
        if server.tls_cert_file is not None:
            _load(self.context, server.tls_cert_file.expanduser(), server.tls_key_file)

    def host_for(self, address: str) -> str:
        """The name for `address` that the certificate covers; `address` if none does."""
        if address in self.names:
            return address
        return next((name for name in self.names if not name.startswith("*") and not _is_address(name)), address)


def protection(server: ServerSettings) -> Certificate | None:
    """Load the certificate of the settings; None for plain HTTP.

    Raises ConfigError if the files cannot be used, and for plain HTTP at this address without permission.
    """
    if server.tls_cert_file is not None:
        return _certificate(server.tls_cert_file.expanduser(), server.tls_key_file)
    if server.tls_key_file is not None:
        raise ConfigError([f"server.tls_key_file is {server.tls_key_file} and server.tls_cert_file is not set; set it"])
    if not is_loopback(server.host) and not server.allow_plain_http:
        raise ConfigError(
            [
                f"server.host is {server.host!r}, which other machines can reach, and keys and texts would cross the "
                "network readable. Set server.tls_cert_file and server.tls_key_file; or, behind a proxy that speaks "
                "TLS, set server.allow_plain_http = true (EMBEDGATE_SERVER__ALLOW_PLAIN_HTTP=true, or `embedgate "
                "serve --insecure`); or listen on 127.0.0.1."
            ]
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether a listen address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificate(cert_file: Path, key_file: Path | None) -> Certificate:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf = _load(context, cert_file, key_file)
    return Certificate(context, cert_file, _names(leaf), is_self_signed=leaf.issuer == leaf.subject)


def _load(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> "x509.Certificate":
    """Load certificate and key into a context, and return the leaf. Raises ConfigError."""
    from cryptography import x509  # a tenth of a start, and most are without HTTPS

    place = "server.tls_cert_file" if key_file is None else "server.tls_cert_file and server.tls_key_file"
    try:
        context.load_cert_chain(cert_file, key_file.expanduser() if key_file else None, _no_passphrase)
        return x509.load_pem_x509_certificates(cert_file.read_bytes())[0]
    except ssl.SSLError as error:
        raise ConfigError([f"{place} cannot be used: {_meaning(error)}"]) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a certificate in PEM"
        files = ", ".join(str(file) for file in (cert_file, key_file) if file is not None)
        raise ConfigError([f"{place} cannot be read: {reason} (seen: {files})"]) from error


def _no_passphrase() -> str:
    """Refuse a key with a passphrase, for which OpenSSL would prompt on the terminal."""
    raise ConfigError(["the private key of HTTPS has a passphrase; set server.tls_key_file to one saved without"])


def _meaning(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the private key belongs to another certificate"
    return f"they must be PEM files, certificate and private key ({error.reason or 'nothing of that in them'})"


def _names(leaf: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509

    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = map(str, alternative.get_values_for_type(x509.IPAddress))
    return (*alternative.get_values_for_type(x509.DNSName), *addresses)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
