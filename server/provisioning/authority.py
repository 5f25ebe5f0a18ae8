"""The federation's certificate authority, and the server certificate that sites know the coordinator by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from privacy.durable import PUBLIC_FILE, make_private_folder, write_durably
from privacy.errors import KeyFileError, UserError
from protocol.messages.certificates import (
    as_end_of_tls,
    common_name,
    key_usage,
    pem,
    self_signed,
    start_certificate,
)
from protocol.messages.keys import load_or_create_tls_key, load_tls_key

LOOPBACK = "127.0.0.1"
# A new authority means a new ca.crt at every site, so it outlives many server certificates.
CA_DAYS = 3650
WARN_BEFORE = timedelta(days=30)
# A SuperLink without a proxy in front, or behind one on the same machine, is asked for by these.
_ON_THIS_MACHINE = ("localhost", LOOPBACK)


class Authority:
    """``ca.key`` and ``ca.crt`` in one folder. It signs server certificates and nothing below them."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @classmethod
    def load_or_create(cls, folder: Path, *, name: str, now: datetime) -> Authority:
        """Read the authority, or make what is missing of it."""
        make_private_folder(folder)
        key = load_or_create_tls_key(folder / "ca.key")
        if not (folder / "ca.crt").exists():
            write_durably(folder / "ca.crt", _authority_certificate(key, name, now), mode=PUBLIC_FILE)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Raises KeyFileError if key or certificate is missing, or if one is not the other's."""
        key = load_tls_key(folder / "ca.key")
        certificate = read_certificate(folder / "ca.crt")
        if certificate.public_key() != key.public_key():
            raise KeyFileError(f"{folder / 'ca.crt'} is not the certificate of {folder / 'ca.key'}")
        return cls(key, certificate)

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)

    def issue(
        self, key: ec.EllipticCurvePublicKey, *, name: str, host: str, days: int, now: datetime
    ) -> bytes:
        """A server certificate for ``host`` and this machine, PEM; it never outlives the authority.

        Raises UserError if the authority has expired.
        """
        last = self.certificate.not_valid_after_utc
        if last <= now:
            raise UserError(f"the authority expired on {format_day(last)}: provision a new federation")
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = start_certificate(
            key,
            subject=f"{name} coordinator",
            issuer=self.certificate.subject,
            now=now,
            until=min(now + timedelta(days=days), last),
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        hosts = (host, *_ON_THIS_MACHINE)
        end = as_end_of_tls(builder, hosts=hosts, usage=ExtendedKeyUsageOID.SERVER_AUTH)
        return pem(end.sign(self._key, hashes.SHA256()))


def loopback_certificate(folder: Path, *, now: datetime | None = None) -> tuple[Path, Path]:
    """The key and the certificate of a server that only this machine reaches, made or renewed as needed.

    The certificate is its own authority, so that nothing a site has could stand in for this server.
    """
    now = now or datetime.now(UTC)
    make_private_folder(folder)
    key = load_or_create_tls_key(folder / "loopback.key")
    path = folder / "loopback.crt"
    if (
        not path.exists()
        or valid_until(path) - now < WARN_BEFORE
        or read_certificate(path).public_key() != key.public_key()
    ):
        content = self_signed(
            key,
            name="confide loopback",
            hosts=_ON_THIS_MACHINE,
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            now=now,
            until=now + timedelta(days=CA_DAYS),
        )
        write_durably(path, content, mode=PUBLIC_FILE)
    return folder / "loopback.key", path


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate. Raises KeyFileError if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as error:
        raise KeyFileError(f"no certificate at {path}") from error
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path} holds no certificate that can be read: {error}") from error


def valid_until(path: Path) -> datetime:
    """When a certificate ends, in UTC. Raises KeyFileError if there is none."""
    return read_certificate(path).not_valid_after_utc


def expiry_notice(what: str, until: datetime, *, now: datetime, remedy: str) -> str | None:
    """A sentence if ``what`` has expired or will within 30 days, with what helps; else None."""
    if until <= now:
        return f"{what} expired on {format_day(until)}: {remedy}"
    if until - now < WARN_BEFORE:
        days = (until - now).days
        left = "less than a day" if days < 1 else "1 day" if days == 1 else f"{days} days"
        return f"{what} expires on {format_day(until)}, in {left}: {remedy}"
    return None


def format_day(moment: datetime) -> str:
    """A day in UTC: 2027-11-22."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d")


def _authority_certificate(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> bytes:
    subject = f"{name} authority"
    builder = start_certificate(
        key.public_key(),
        subject=subject,
        issuer=common_name(subject),
        now=now,
        until=now + timedelta(days=CA_DAYS),
    )
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return pem(certificate)
