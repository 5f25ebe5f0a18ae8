"""Certificates for the ends of TLS, on either side."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# So that a clock that is a little behind takes a new certificate.
_BACKDATED = timedelta(hours=1)


def common_name(name: str) -> x509.Name:
    """A distinguished name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def start_certificate(
    key: ec.EllipticCurvePublicKey, *, subject: str, issuer: x509.Name, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    """What all certificates have (RFC 5280, 4.1 and 4.2.1.2): names, times, a random serial number."""
    return (
        x509.CertificateBuilder()
        .subject_name(common_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def as_end_of_tls(
    builder: x509.CertificateBuilder, *, hosts: Iterable[str], usage: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    """For one end of TLS, as server or client by ``usage``, under these names and addresses."""
    names = [_general_name(host) for host in dict.fromkeys(hosts)]
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def self_signed(
    key: ec.EllipticCurvePrivateKey,
    *,
    name: str,
    hosts: Iterable[str],
    usage: x509.ObjectIdentifier,
    now: datetime,
    until: datetime,
) -> bytes:
    """A certificate that the other end trusts because it was given this very one; PEM."""
    public = key.public_key()
    builder = start_certificate(public, subject=name, issuer=common_name(name), now=now, until=until)
    return pem(as_end_of_tls(builder, hosts=hosts, usage=usage).sign(key, hashes.SHA256()))


def key_usage(*, digital_signature: bool = False, signs_certificates: bool = False) -> x509.KeyUsage:
    """What a key may be used for (RFC 5280, 4.2.1.3). TLS 1.2 and 1.3 have EC keys sign, and no more."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
