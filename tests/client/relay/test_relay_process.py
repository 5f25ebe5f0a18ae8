"""The relay as a process: what it says when it cannot start, and how it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from protocol.processes.flower_process import relay_environment
from tests import children

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.process


def command(folder: Path, *, port: int = 1) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "client.relay.relay_process", "--superlink", f"localhost:{port}"),
        *("--root-certificates", str(folder / "ca.crt"), "--agent", f"unix:{folder}/a.sock"),
        *("--auth-supernode-private-key", str(folder / "node.key")),
    ]


def environment(folder: Path) -> dict[str, str]:
    return relay_environment(folder) | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "node.key cannot be read as the node's private key"),
        (b"nothing", "node.key cannot be read as the node's private key"),
        ("ed25519", "expected a key on an elliptic curve of NIST's"),
    ],
    ids=["absent", "no key", "another curve"],
)
def test_a_key_that_is_none_is_said(tmp_path: Path, content: bytes | str | None, said: str) -> None:
    if content == "ed25519":
        content = ed25519()
    if content is not None:
        (tmp_path / "node.key").write_bytes(content)
    done = children.run(
        command(tmp_path),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def ed25519() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
