"""What a peers.toml may say, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from client.custody.peers import read_peers
from privacy.errors import PolicyFileError
from privacy.identity import Identity

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.mark.parametrize(
    ("table", "lines"),
    [
        ({}, ["peers: missing"]),
        ({"peers": {}}, ["peers: expected at least 1 of them, got 0"]),
        ({"peers": ["north"]}, ["peers: expected a section of keys, got"]),
        ({"peers": {"north": KEY}, "budget": {}}, ["budget: unknown key"]),
        ({"peers": {"north": KEY, "south": KEY.upper()}}, ["peers.south: expected to match"]),
        ({"peers": {"north": KEY[:-1]}}, ["peers.north: expected to match"]),
        ({"peers": {"north": KEY + "00"}}, ["peers.north: expected to match"]),
        ({"peers": {"north": 7}}, ["peers.north: expected a valid string"]),
        ({"peers": {"north": {"identity": KEY}}}, ["peers.north: expected a valid string"]),
        ({"peers": {"": KEY}}, ["peers.: expected up to 40 letters"]),
        ({"peers": {"../north": KEY}}, ["peers.../north: expected up to 40 letters"]),
        ({"peers": {"n" * 41: KEY}}, [f"peers.{'n' * 41}: expected up to 40 letters"]),
        ({"peers": {"Coordinator": KEY}}, ["peers.Coordinator: expected another name"]),
        (
            {"peers": {"north": KEY, "south": OTHER, "west": KEY}},
            ["peers: expected a key of its own for each, got one for north, west"],
        ),
        ({"peers": {"a b": KEY, "south": "00"}}, ["peers.a b: expected", "peers.south: expected"]),
    ],
)
def test_each_mistake_has_one_line_that_names_it(
    tmp_path: Path, table: dict[str, object], lines: list[str]
) -> None:
    path = tmp_path / "peers.toml"
    path.write_text(tomli_w.dumps(table))
    with pytest.raises(PolicyFileError) as caught:
        read_peers(path)
    place, said = str(caught.value).split(": ", 1)
    assert place == str(path)
    found = said.splitlines()
    assert len(found) == len(lines)
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize(
    "content", [b"[peers\n", b"north = \xff", f'[peers]\nnorth = "{KEY}"\nnorth = "{OTHER}"'.encode()]
)
def test_what_is_no_toml_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.toml"
    path.write_bytes(content)
    with pytest.raises(PolicyFileError, match="cannot read the peers"):
        read_peers(path)
    with pytest.raises(PolicyFileError, match="cannot read the peers"):
        read_peers(tmp_path)


def test_where_there_is_none_it_says_what_it_is_and_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"(?s)no peers at .*other sites' keys.*confide provision"):
        read_peers(tmp_path / "peers.toml")


@settings(max_examples=30, deadline=None)
@given(
    names=st.sets(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", fullmatch=True), min_size=1, max_size=6)
)
def test_what_is_read_is_each_sites_key_and_cannot_be_changed(
    names: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    keys = {name: Identity.generate().public for name in names if name.lower() != "coordinator"}
    path = tmp_path_factory.mktemp("home") / "peers.toml"
    path.write_text(tomli_w.dumps({"peers": {name: key.hex() for name, key in keys.items()}}))
    found = read_peers(path)
    assert found == keys
    with pytest.raises(TypeError):
        found["north"] = b""  # type: ignore[index]
