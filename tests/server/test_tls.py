"""Plain HTTP beyond this machine takes a decision, and a certificate that cannot be used is named at the start."""

import shutil
from pathlib import Path

import pytest

from certificates import write_certificate
from embedgate.core.errors import ConfigError
from embedgate.server.tls import Certificate, is_loopback, protection
from embedgate.settings import ServerSettings


def certificate(folder: Path, *names: str) -> Certificate:
    cert_file, key_file = write_certificate(folder, *names)
    found = protection(ServerSettings(tls_cert_file=cert_file, tls_key_file=key_file))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("gateway", False),
    ],
)
def test_loopback_addresses_are_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    if expected:
        assert protection(ServerSettings(host=host)) is None
    else:
        with pytest.raises(ConfigError, match="allow_plain_http"):
            protection(ServerSettings(host=host))
    assert protection(ServerSettings(host=host, allow_plain_http=True)) is None


def test_the_names_of_a_certificate_decide_how_the_server_is_called(tmp_path: Path) -> None:
    found = certificate(tmp_path, "*.example.com", "gateway.example.com", "127.0.0.1")
    assert found.is_self_signed
    assert found.host_for("127.0.0.1") == "127.0.0.1"
    assert found.host_for("10.0.0.1") == "gateway.example.com"
    assert certificate(tmp_path, "*.example.com", "10.0.0.2").host_for("10.0.0.1") == "10.0.0.1"
    assert certificate(tmp_path).host_for("10.0.0.1") == "10.0.0.1"


def test_certificate_and_key_may_be_one_file(tmp_path: Path) -> None:
    cert_file, key_file = write_certificate(tmp_path, "localhost")
    both = tmp_path / "both.pem"
    both.write_bytes(cert_file.read_bytes() + key_file.read_bytes())
    assert protection(ServerSettings(tls_cert_file=both)) is not None


def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    cert_file, key_file = write_certificate(tmp_path, "localhost")
    _, other_key_file = write_certificate(tmp_path / "other", "localhost")
    shutil.copy(other_key_file, tmp_path / "other.pem")
    _, sealed_key_file = write_certificate(tmp_path / "other", "localhost", passphrase=b"open sesame")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_bytes(b"\xff rubbish")
    for cert, key, reason in (
        (cert_file, tmp_path / "other.pem", "belongs to another certificate"),
        (tmp_path / "other" / "cert.pem", sealed_key_file, "has a passphrase"),
        (cert_file, tmp_path / "absent.pem", "No such file"),
        (cert_file, tmp_path, "cannot be"),
        (rubbish, key_file, "must be PEM"),
        (cert_file, rubbish, "must be PEM"),
        (cert_file, None, "must be PEM"),
        (None, key_file, "server.tls_cert_file is not set"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            protection(ServerSettings(tls_cert_file=cert, tls_key_file=key))
        assert "server.tls_" in str(caught.value)
