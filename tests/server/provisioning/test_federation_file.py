"""federation.toml: what is read, and what is refused by which key."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from privacy.errors import UserError
from server.provisioning.authority import valid_until
from server.provisioning.federation_file import read_federation_file
from server.provisioning.provision import provision
from tests.server.federations import NOW


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


HEAD = 'name = "clinics"\naddress = "localhost:8443"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "cannot read the federation file"),
        ('name = "x"\n[[site]]\nname = "a"', "address: missing"),
        (HEAD, "site: missing"),
        (HEAD + "site = []", "site: "),
        (
            HEAD + 'days = 3\n[[site]]\nname = "a"',
            "days: unknown key (expected one that docs/federation.md",
        ),
        (HEAD + "valid_days = 0\n[[site]]\nname = 'a'", "valid_days"),
        (HEAD.replace(":8443", "") + "[[site]]\nname = 'a'", "address: expected host:port"),
        (HEAD.replace("8443", "70000") + "[[site]]\nname = 'a'", "address: expected host:port"),
        (HEAD.replace("localhost", "300.1.2.3") + "[[site]]\nname = 'a'", "address: expected host:port"),
        (HEAD.replace("localhost", "a b") + "[[site]]\nname = 'a'", "address: expected host:port"),
        (HEAD.replace("localhost", "::1") + "[[site]]\nname = 'a'", "address: expected host:port"),
        (HEAD.replace("clinics", "../x") + "[[site]]\nname = 'a'", "name: "),
        *(
            (HEAD + f"[[site]]\nname = {name!r}", "site.0.name: expected up to 40 letters")
            for name in ("", "-a", "../x", "a b", "a.b", "a" * 41, "nörd", "a/b")
        ),
        (HEAD + "[[site]]\nname = 'coordinator'", "expected another name than the coordinator's own"),
        (HEAD + "[[site]]\nname = 'Coordinator'", "expected another name than the coordinator's own"),
        (HEAD + "[[site]]\nname = 'a'\n[[site]]\nname = 'a'", "site.name: each site has its own, got 'a'"),
        (HEAD + "[[site]]\nname = 'a'\n[[site]]\nname = 'A'", "site.name: each site has its own, got 'a'"),
        (HEAD + f"[[site]]\nname = 'a'\nidentity = '{'0' * 64}'", "needs both identity and node"),
        (HEAD + "[[site]]\nname = 'a'\nidentity = 'xyz'", "site.0.identity"),
        (HEAD + "[[site]]\nname = 'a'\nnode = 'ssh-rsa AAAA'", "expected an OpenSSH public key"),
        (HEAD + "[[site]]\nname = 'a'\nnode = ''", "expected an OpenSSH public key"),
        (HEAD + "[[site]]\nname = 'a'\nrules = {coordinator = 'x'}", "is given this federation's key"),
        (
            HEAD + "[[site]]\nname = 'a'\n[site.data.x]\nsource = 'y'\nrows = 3",
            "site.0.data.x.rows: unknown",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_federation_file(write(tmp_path / "federation.toml", text))
    assert words in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="confide init --federation"):
        read_federation_file(tmp_path / "federation.toml")


@pytest.mark.parametrize("host", ["localhost", "fl.example.org", "10.0.0.5", "[2001:db8::7]"])
def test_hosts_by_name_and_number(tmp_path: Path, host: str) -> None:
    text = HEAD.replace("localhost", host) + "[[site]]\nname = 'a'"
    file = read_federation_file(write(tmp_path / "federation.toml", text))
    assert file.host == host.strip("[]")
    provision(file, tmp_path / "out", now=NOW)
    assert valid_until(tmp_path / "out/coordinator/server.crt") == NOW + timedelta(days=365)


def test_a_model_beside_the_file_is_meant(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    text = HEAD + "[[site]]\nname = 'a'\n[site.models]\nx = 'm'\ny = 'n'\nz = 'hub:m'"
    models = read_federation_file(write(tmp_path / "federation.toml", text)).site[0].models
    assert models == {"x": str((tmp_path / "m").resolve()), "y": "n", "z": "hub:m"}


def test_data_beside_the_file_is_meant(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    text = HEAD + "[[site]]\nname = 'a'\n[site.data]\nx = {source = 'a.csv'}\ny = {source = 'b.csv'}"
    data = read_federation_file(write(tmp_path / "federation.toml", text)).site[0].data
    assert data["x"].source == str((tmp_path / "a.csv").resolve())
    assert data["y"].source == "b.csv"


def test_how_data_are_written_reaches_the_sites_own_file(tmp_path: Path) -> None:
    text = (
        HEAD + "[[site]]\nname = 'a'\n[site.data]\nx = {source = 'a.txt', separator = \"\\t\", split = 's'}"
    )
    provision(read_federation_file(write(tmp_path / "federation.toml", text)), tmp_path / "out", now=NOW)
    (site,) = (tmp_path / "out").rglob("site.toml")
    data = tomllib.loads(site.read_text())["data"]["x"]
    assert (data["separator"], data["split"], data["encoding"]) == ("\t", "s", "utf-8")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (HEAD + "[[site]]\nname = 'a'").encode())
    assert read_federation_file(path).site[0].name == "a"
