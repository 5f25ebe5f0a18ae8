"""The certificates, as the programs that check them see them."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from privacy.errors import KeyFileError, UserError
from protocol.messages.keys import load_or_create_tls_key
from server.provisioning.authority import (
    CA_DAYS,
    Authority,
    expiry_notice,
    loopback_certificate,
    read_certificate,
    valid_until,
)
from tests.server.federations import NOW
from tests.server.handshakes import handshake, real_now


def server(folder: Path, *, host: str = "fl.example.org", days: int = 365) -> tuple[Authority, Path, Path]:
    """An authority and a server under it: key and certificate."""
    authority = Authority.load_or_create(folder / "ca", name="clinics", now=real_now())
    key = load_or_create_tls_key(folder / "server.key")
    content = authority.issue(key.public_key(), name="clinics", host=host, days=days, now=real_now())
    (folder / "server.crt").write_bytes(content)
    return authority, folder / "server.key", folder / "server.crt"


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("fl.example.org", "fl.example.org"),
        ("fl.example.org", "localhost"),
        ("fl.example.org", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
    ],
)
def test_a_site_believes_the_server_under_its_names(tmp_path: Path, host: str, asked: str) -> None:
    _, key, certificate = server(tmp_path, host=host)
    handshake(tmp_path / "ca" / "ca.crt", key, certificate, asked)


def test_no_other_name_is_believed(tmp_path: Path) -> None:
    _, key, certificate = server(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path / "ca" / "ca.crt", key, certificate, "evil.example.org")


def test_no_other_authority_is_believed(tmp_path: Path) -> None:
    _, key, certificate = server(tmp_path)
    Authority.load_or_create(tmp_path / "other", name="clinics", now=real_now())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "other" / "ca.crt", key, certificate, "localhost")


def test_the_authority_signs_servers_and_nothing_below_them(tmp_path: Path) -> None:
    authority, key, certificate = server(tmp_path)
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = authority.certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    # A server that plays authority for another one is not believed.
    played = Authority(load_or_create_tls_key(key), read_certificate(certificate))
    other = load_or_create_tls_key(tmp_path / "other.key")
    forged = played.issue(other.public_key(), name="x", host="evil.example.org", days=9, now=real_now())
    (tmp_path / "chain.crt").write_bytes(forged + certificate.read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "ca" / "ca.crt", tmp_path / "other.key", tmp_path / "chain.crt", "localhost")


def test_the_server_certificate_is_for_servers_alone(tmp_path: Path) -> None:
    _, _, path = server(tmp_path)
    certificate = read_certificate(path)
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.digital_signature, usage.value.key_cert_sign) == (True, False)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_serial_numbers_are_random(tmp_path: Path) -> None:
    authority, key, _ = server(tmp_path)
    public = load_or_create_tls_key(key).public_key()
    made = [authority.issue(public, name="x", host="h", days=1, now=NOW) for _ in range(8)]
    serials = {x509.load_pem_x509_certificate(content).serial_number for content in made}
    assert len(serials) == 8
    # Of 159 random bits fewer than 64 are left with probability 2⁻⁹⁵.
    assert min(serial.bit_length() for serial in serials) > 64


def test_days_are_those_asked_for_and_end_with_the_authority(tmp_path: Path) -> None:
    authority, _, path = server(tmp_path, days=90)
    assert timedelta(days=89) < valid_until(path) - real_now() <= timedelta(days=90)
    _, _, path = server(tmp_path, days=2 * CA_DAYS)
    assert valid_until(path) == authority.certificate.not_valid_after_utc
    key = load_or_create_tls_key(tmp_path / "server.key").public_key()
    late = real_now() + timedelta(days=CA_DAYS + 1)
    with pytest.raises(UserError, match="the authority expired on"):
        authority.issue(key, name="x", host="h", days=1, now=late)


def test_what_is_there_stays_and_must_fit(tmp_path: Path) -> None:
    Authority.load_or_create(tmp_path / "ca", name="clinics", now=NOW)
    before = (tmp_path / "ca" / "ca.key").read_bytes(), (tmp_path / "ca" / "ca.crt").read_bytes()
    Authority.load_or_create(tmp_path / "ca", name="clinics", now=NOW + timedelta(days=1))
    assert before == ((tmp_path / "ca" / "ca.key").read_bytes(), (tmp_path / "ca" / "ca.crt").read_bytes())
    Authority.load_or_create(tmp_path / "other", name="clinics", now=NOW)
    (tmp_path / "ca" / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    with pytest.raises(KeyFileError, match="is not the certificate of"):
        Authority.load(tmp_path / "ca")


@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_said_to_be_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.crt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=r"x\.crt"):
        valid_until(path)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=-1), "expired on 2026-02-28"),
        (timedelta(hours=3), "in less than a day"),
        (timedelta(days=1, hours=3), "in 1 day:"),
        (timedelta(days=29, hours=23), "in 29 days: do this"),
        (timedelta(days=30), None),
    ],
)
def test_expiry_is_said_thirty_days_before(left: timedelta, words: str | None) -> None:
    notice = expiry_notice("it", NOW + left, now=NOW, remedy="do this")
    assert (words is None) == (notice is None)
    assert words is None or words in str(notice)


def test_loopback_has_a_certificate_of_its_own(tmp_path: Path) -> None:
    key, certificate = loopback_certificate(tmp_path / "flower", now=real_now())
    handshake(certificate, key, certificate, "localhost")
    handshake(certificate, key, certificate, "127.0.0.1")
    assert key.stat().st_mode & 0o777 == 0o600
    before = certificate.read_bytes()
    assert loopback_certificate(tmp_path / "flower", now=real_now()) == (key, certificate)
    assert certificate.read_bytes() == before
    loopback_certificate(tmp_path / "flower", now=real_now() + timedelta(days=CA_DAYS - 10))
    assert certificate.read_bytes() != before


def test_loopback_is_no_site_of_the_authority(tmp_path: Path) -> None:
    """What a site trusts says nothing about loopback, and the other way round."""
    _, key, certificate = server(tmp_path)
    loopback_key, loopback = loopback_certificate(tmp_path / "flower", now=real_now())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(loopback, key, certificate, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path / "ca" / "ca.crt", loopback_key, loopback, "localhost")
