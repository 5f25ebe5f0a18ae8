"""The keys of one site: who signs, which node it is, and how its agent and relay know each other.

::

    identity.key                 signs what the site says (Ed25519)
    agent.key agent.crt          the agent's end of the TLS between relay and agent
    relay/node.key               the node's, by which Flower's SuperLink lets it in (ECDSA P-384)
    relay/relay.key relay.crt    the relay's end of that TLS
    relay/agent.crt              which agent the relay believes

What is in ``relay/`` is all that the relay's user may read. The two certificates are self-signed: each
end trusts just the other's, and no authority could make a third.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from privacy.durable import PUBLIC_FILE, make_private_folder, write_durably
from privacy.errors import KeyFileError
from privacy.identity import Identity
from protocol.messages.certificates import self_signed
from protocol.messages.keys import (
    load_or_create_node_key,
    load_or_create_tls_key,
    read_node_key,
    write_new,
)

# The names in the two certificates. The agent's is what a relay expects, whatever address it dials
# (gRPC: grpc.ssl_target_name_override).
AGENT_NAME = "confide-agent"
RELAY_NAME = "confide-relay"

# A pinned pair ends when it is replaced: nobody is asked whether it still holds.
_PAIR_DAYS = 20 * 365


@dataclass(frozen=True, kw_only=True)
class PublicKeys:
    """What a coordinator must know of a site: ``identity`` is 32 bytes, ``node`` an OpenSSH line."""

    identity: bytes
    node: str


def make_site_keys(home: Path, *, now: datetime) -> PublicKeys:
    """Make what is missing of a site's keys in its home, and return the public ones.

    Keys that are there stay. Raises KeyFileError if one is not what its name says.
    """
    make_private_folder(home)
    relay = home / "relay"
    make_private_folder(relay)
    identity = Identity.load_or_create(home / "identity.key")
    agent = _make_pair(home / "agent", AGENT_NAME, ExtendedKeyUsageOID.SERVER_AUTH, now)
    _make_pair(relay / "relay", RELAY_NAME, ExtendedKeyUsageOID.CLIENT_AUTH, now)
    pinned = relay / "agent.crt"
    if not pinned.exists() or pinned.read_bytes() != agent:
        write_durably(pinned, agent, mode=PUBLIC_FILE)
    return PublicKeys(identity=identity.public, node=load_or_create_node_key(relay / "node.key"))


def read_site_keys(home: Path) -> PublicKeys:
    """The public keys of a home that has its keys. Raises KeyFileError if one is missing."""
    identity = Identity.load(home / "identity.key")
    return PublicKeys(identity=identity.public, node=read_node_key(home / "relay" / "node.key"))


def _make_pair(stem: Path, name: str, usage: x509.ObjectIdentifier, now: datetime) -> bytes:
    """``stem``.key and .crt where they are missing; the certificate."""
    key = load_or_create_tls_key(stem.with_suffix(".key"))
    path = stem.with_suffix(".crt")
    if not path.exists():
        until = now + timedelta(days=_PAIR_DAYS)
        content = self_signed(key, name=name, hosts=[name], usage=usage, now=now, until=until)
        write_new(path, content, mode=PUBLIC_FILE)
    content = path.read_bytes()
    try:
        fits = x509.load_pem_x509_certificate(content).public_key() == key.public_key()
    except ValueError as error:
        raise KeyFileError(f"{path} holds no certificate: {error}") from error
    if not fits:
        raise KeyFileError(f"{path} is not of {stem.with_suffix('.key')}: delete it, and another is made")
    return content
