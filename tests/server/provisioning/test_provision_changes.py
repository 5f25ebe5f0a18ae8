"""A federation that changes: sites that leave, new keys, a new certificate."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from client.custody.peers import read_peers
from privacy.errors import KeyFileError, UserError
from protocol.messages.site_keys import make_site_keys, read_site_keys
from server.provisioning.federation_file import FederationFile
from server.provisioning.provision import provision
from tests.server.federations import NOW, check_whole, contents, federation_file, federation_of, states


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "federation"


def with_own_keys(site: str, home: Path) -> tuple[FederationFile, Path]:
    """A federation in which one site made its own keys, and that site's home."""
    keys = make_site_keys(home, now=NOW)
    own = {"name": site, "identity": keys.identity.hex(), "node": f"{keys.node} somebody@somewhere"}
    return federation_file(site=[own, {"name": "south"}]), home


def test_reissuing_ends_the_old_keys(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    old = federation_of(out).sites
    shutil.rmtree(out / "kits" / "north")
    assert states(out, federation_file(), reissue=["north"]) == {"north": "made", "south": "here"}
    new = federation_of(out).sites
    assert new["south"] == old["south"]
    assert new["north"].identity != old["north"].identity
    assert new["north"].node != old["north"].node
    check_whole(out, {"north", "south"})


def test_peers_are_the_sites_that_are_in_now(out: Path) -> None:
    provision(federation_file("north", "south", "west"), out, now=NOW)
    old = read_peers(out / "peers.toml")
    shutil.rmtree(out / "kits" / "north")
    assert provision(
        federation_file("north", "south", "west"), out, now=NOW, reissue=["north"], revoke=["west"]
    ).peers_changed
    new = read_peers(out / "peers.toml")
    assert new == {"north": read_site_keys(out / "kits" / "north").identity, "south": old["south"]}
    assert new["north"] != old["north"]
    for kit in ("north", "south"):
        assert read_peers(out / "kits" / kit / "peers.toml") == new
    assert read_peers(out / "kits" / "west" / "peers.toml") == old  # to be deleted, as the command says


def test_a_kit_in_the_way_is_never_written_over(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    with pytest.raises(UserError, match=r"kits/north is in the way"):
        provision(federation_file(), out, now=NOW, reissue=["north"])
    (out / "kits" / "west").mkdir()
    (out / "kits" / "west" / "identity.key").write_text("someone's")
    with pytest.raises(UserError, match=r"kits/west is in the way"):
        provision(federation_file("north", "south", "west"), out, now=NOW)
    shutil.rmtree(out / "kits" / "west")
    assert contents(out) == before


def test_an_old_kit_that_came_back_is_noticed(out: Path, tmp_path: Path) -> None:
    provision(federation_file(), out, now=NOW)
    (out / "kits" / "north").rename(tmp_path / "old")
    provision(federation_file(), out, now=NOW, reissue=["north"])
    shutil.rmtree(out / "kits" / "north")
    (tmp_path / "old").rename(out / "kits" / "north")
    with pytest.raises(UserError, match="it is out of date; delete it"):
        provision(federation_file(), out, now=NOW)


def test_a_revoked_site_is_out_until_it_has_new_keys(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    old = federation_of(out).sites["north"]
    assert states(out, federation_file(), revoke=["north"]) == {"north": "revoked", "south": "here"}
    federation = federation_of(out)
    assert federation.sites["north"] == old.model_copy(update={"revoked": True})
    assert set(federation.active_sites) == {"south"}
    assert not (out / "coordinator" / "nodes" / "north.pub").exists()
    before = contents(out)
    assert states(out, federation_file())["north"] == "revoked"
    assert states(out, federation_file("south"))["north"] == "revoked"
    assert contents(out) == before
    shutil.rmtree(out / "kits" / "north")
    provision(federation_file(), out, now=NOW, reissue=["north"])
    new = federation_of(out).sites["north"]
    assert not new.revoked
    assert new.node != old.node
    check_whole(out, {"north", "south"})


def test_a_site_that_left_the_file_is_to_be_revoked(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    with pytest.raises(UserError, match="--revoke north shuts it out"):
        provision(federation_file("south"), out, now=NOW)
    assert contents(out) == before
    assert states(out, federation_file("south"), revoke=["north"])["north"] == "revoked"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"revoke": ["east"]}, "--revoke east: expected one of north, south"),
        ({"reissue": ["east"]}, "--reissue east: expected one of north, south"),
        ({"reissue": ["north"], "revoke": ["north"]}, "either --reissue north or --revoke north"),
    ],
)
def test_mistaken_names_change_nothing(out: Path, options: dict[str, list[str]], words: str) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    with pytest.raises(UserError, match=words):
        provision(federation_file(), out, now=NOW, **options)
    assert contents(out) == before


def test_another_federations_file_changes_nothing(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    with pytest.raises(UserError, match="is the federation clinics, not banks"):
        provision(federation_file(name="banks"), out, now=NOW)
    with pytest.raises(UserError, match="on some disks it would share a folder with north"):
        provision(federation_file("south", "NORTH"), out, now=NOW, revoke=["north"])
    assert contents(out) == before


def test_renewing_makes_one_certificate_and_leaves_the_rest(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    before = contents(out)
    later = NOW + timedelta(days=350)
    found = provision(federation_file(), out, now=later)
    assert not found.renewed
    assert "in 15 days" in " ".join(found.coordinator.expiry_notices(later))
    found = provision(federation_file(), out, now=later, renew=True)
    assert found.renewed
    assert found.coordinator.expiry_notices(later) == []
    assert found.server_until == later + timedelta(days=365)
    after = contents(out)
    assert {name for name in after if after[name] != before.get(name)} == {"coordinator/server.crt"}
    check_whole(out, {"north", "south"})


def test_another_address_needs_another_certificate(out: Path) -> None:
    provision(federation_file(), out, now=NOW)
    moved = federation_file(address="10.0.0.5:443")
    before = contents(out)
    with pytest.raises(UserError, match="--renew makes a certificate for it"):
        provision(moved, out, now=NOW)
    assert contents(out) == before
    assert provision(moved, out, now=NOW, renew=True).moved
    assert federation_of(out).address == "10.0.0.5:443"
    check_whole(out, {"north", "south"})


def test_only_the_same_authority_renews(out: Path, tmp_path: Path) -> None:
    provision(federation_file(), out, now=NOW)
    provision(federation_file(), tmp_path / "other", now=NOW)
    shutil.rmtree(out / "ca")
    before = contents(out)
    with pytest.raises(KeyFileError, match="no key at"):
        provision(federation_file(), out, now=NOW, renew=True)
    shutil.copytree(tmp_path / "other" / "ca", out / "ca")
    with pytest.raises(KeyFileError, match="which sites trust"):
        provision(federation_file(), out, now=NOW, renew=True)
    shutil.rmtree(out / "ca")
    assert contents(out) == before


def test_a_site_with_its_own_keys_gets_none(out: Path, tmp_path: Path) -> None:
    file, home = with_own_keys("north", tmp_path / "home")
    provision(file, out, now=NOW)
    kit = out / "kits" / "north"
    assert {str(p.relative_to(kit)) for p in kit.rglob("*") if p.is_file()} == {
        "README",
        "peers.toml",
        "site.toml",
        "relay/ca.crt",
    }
    assert "confide site keys ." in (kit / "README").read_text()
    site = federation_of(out).sites["north"]
    assert (site.identity_key, site.node) == (read_site_keys(home).identity, read_site_keys(home).node)
    assert read_peers(kit / "peers.toml")["north"] == read_site_keys(home).identity
    before = contents(out)
    assert states(out, file)["north"] == "here"
    assert contents(out) == before


def test_other_own_keys_are_taken_when_asked_for(out: Path, tmp_path: Path) -> None:
    file, _ = with_own_keys("north", tmp_path / "home")
    provision(file, out, now=NOW)
    shutil.rmtree(out / "kits" / "north")
    other, home = with_own_keys("north", tmp_path / "other")
    with pytest.raises(UserError, match="--reissue north takes the new ones"):
        provision(other, out, now=NOW)
    provision(other, out, now=NOW, reissue=["north"])
    assert federation_of(out).sites["north"].identity_key == read_site_keys(home).identity


def test_revoked_own_keys_do_not_come_back(out: Path, tmp_path: Path) -> None:
    file, _ = with_own_keys("north", tmp_path / "home")
    provision(file, out, now=NOW)
    provision(file, out, now=NOW, revoke=["north"])
    shutil.rmtree(out / "kits" / "north")
    with pytest.raises(UserError, match="the node key of north was revoked"):
        provision(file, out, now=NOW, reissue=["north"])


def test_one_key_is_one_sites(out: Path, tmp_path: Path) -> None:
    file, _ = with_own_keys("north", tmp_path / "home")
    provision(file, out, now=NOW)
    borrowed = file.site[0].model_copy(update={"name": "west"})
    with pytest.raises(UserError, match="its identity or node is that of north"):
        provision(
            file.model_copy(update={"site": [file.site[1], borrowed]}), out, now=NOW, revoke=["north"]
        )
