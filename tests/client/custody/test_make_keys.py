"""A site's own keys, and the TLS between its agent and its relay."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from client.custody.make_keys import make_own_keys, public_lines
from privacy.errors import KeyFileError
from privacy.identity import Identity
from privacy.ledger.ledger import DATABASE
from protocol.messages.keys import parse_node_key, write_new
from protocol.messages.site_keys import AGENT_NAME, read_site_keys

NOW = datetime.now(UTC)  # gRPC asks the machine's clock


def files(home: Path) -> dict[str, tuple[bytes, int]]:
    found = (path for path in home.rglob("*") if path.is_file())
    return {str(p.relative_to(home)): (p.read_bytes(), p.stat().st_mode & 0o777) for p in found}


def test_all_keys_are_made_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    keys = make_own_keys(tmp_path / "deep" / "home", now=NOW)
    home = tmp_path / "deep" / "home"
    modes = {name: mode for name, (_, mode) in files(home).items()}
    private = {"identity.key", "agent.key", "relay/node.key", "relay/relay.key"}
    public = {"agent.crt", "relay/relay.crt", "relay/agent.crt"}
    assert modes == dict.fromkeys(private, 0o600) | dict.fromkeys(public, 0o644)
    assert {path.stat().st_mode & 0o777 for path in (home, home / "relay")} == {0o700}
    assert keys == read_site_keys(home)
    assert keys.identity == Identity.load(home / "identity.key").public


def test_again_keeps_every_key(tmp_path: Path) -> None:
    first = make_own_keys(tmp_path, now=NOW)
    before = files(tmp_path)
    assert make_own_keys(tmp_path, now=NOW) == first
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["agent.key", "agent.crt", "relay/relay.crt", "relay/agent.crt", "relay/node.key"]
)
def test_what_is_missing_is_made_and_the_rest_stays(tmp_path: Path, name: str) -> None:
    make_own_keys(tmp_path, now=NOW)
    before = files(tmp_path)
    (tmp_path / name).unlink()
    if name == "agent.key":
        with pytest.raises(KeyFileError, match="delete it, and another is made"):
            make_own_keys(tmp_path, now=NOW)
        (tmp_path / "agent.crt").unlink()
    make_own_keys(tmp_path, now=NOW)
    after = files(tmp_path)
    assert set(after) == set(before)
    assert after["identity.key"] == before["identity.key"]
    assert after["relay/agent.crt"] == after["agent.crt"]


def test_a_ledger_without_its_key_gets_no_other(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"")
    with pytest.raises(KeyFileError, match="bring that key back"):
        make_own_keys(tmp_path, now=NOW)
    assert list(tmp_path.iterdir()) == [tmp_path / DATABASE]


def test_what_a_kill_left_of_a_key_goes(tmp_path: Path) -> None:
    (tmp_path / ".agent.key.partial").write_bytes(b"half a key")
    make_own_keys(tmp_path, now=NOW)
    assert not list(tmp_path.rglob(".*"))


def test_the_two_lines_are_what_federation_toml_takes(tmp_path: Path) -> None:
    keys = make_own_keys(tmp_path, now=NOW)
    table = tomllib.loads(public_lines(keys))
    assert bytes.fromhex(table["identity"]) == keys.identity
    assert parse_node_key(table["node"]) == keys.node
    for path in tmp_path.rglob("*.key"):
        secret = path.read_text().splitlines()[2]
        assert secret not in public_lines(keys)


@pytest.mark.parametrize("kind", ["identity.key", "agent.key"])
def test_another_kind_of_key_is_no_node_key(tmp_path: Path, kind: str) -> None:
    make_own_keys(tmp_path, now=NOW)
    (tmp_path / "relay" / "node.key").write_bytes((tmp_path / kind).read_bytes())
    with pytest.raises(KeyFileError, match="holds no node key"):
        make_own_keys(tmp_path, now=NOW)


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    write_new(tmp_path / "x.key", b"first", mode=0o600)
    with pytest.raises(KeyFileError, match="never written over"):
        write_new(tmp_path / "x.key", b"second", mode=0o600)
    assert (tmp_path / "x.key").read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [tmp_path / "x.key"]


def asked_over_tls(agent: Path, relay: Path, *, pinned: Path) -> bytes:
    """What the agent of one home answers the relay of another, which believes ``pinned``."""

    class Echo(grpc.GenericRpcHandler):
        def service(self, _details: object) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Echo()])
    credentials = grpc.ssl_server_credentials(
        [((agent / "agent.key").read_bytes(), (agent / "agent.crt").read_bytes())],
        root_certificates=(agent / "relay" / "relay.crt").read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    client = grpc.ssl_channel_credentials(
        pinned.read_bytes(),
        (relay / "relay" / "relay.key").read_bytes(),
        (relay / "relay" / "relay.crt").read_bytes(),
    )
    options = [("grpc.ssl_target_name_override", AGENT_NAME), ("grpc.enable_http_proxy", 0)]
    try:
        with grpc.secure_channel(f"127.0.0.1:{port}", client, options=options) as channel:
            return bytes(channel.unary_unary("/x/y")(b"hello", timeout=10))
    finally:
        server.stop(None)


def test_agent_and_relay_of_one_site_believe_each_other_and_nobody_else(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    make_own_keys(one, now=NOW)
    make_own_keys(other, now=NOW)
    assert asked_over_tls(one, one, pinned=one / "relay" / "agent.crt") == b"hello"
    with pytest.raises(grpc.RpcError):  # a relay of another site
        asked_over_tls(one, other, pinned=one / "relay" / "agent.crt")
    with pytest.raises(grpc.RpcError):  # an agent of another site
        asked_over_tls(one, one, pinned=other / "relay" / "agent.crt")
    # A relay that plays agent.
    (one / "agent.key").write_bytes((one / "relay" / "relay.key").read_bytes())
    (one / "agent.crt").write_bytes((one / "relay" / "relay.crt").read_bytes())
    with pytest.raises(grpc.RpcError):
        asked_over_tls(one, one, pinned=one / "relay" / "relay.crt")
