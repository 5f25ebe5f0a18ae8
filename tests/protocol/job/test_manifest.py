"""Manifests: one canonical form, one digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privacy.errors import ConfideError, ProtocolError
from protocol.job.manifest import VERSION, Manifest, read_manifest
from tests import tiny


@pytest.fixture
def manifest(tiny_folder: Path) -> Manifest:
    return Manifest(
        run="r",
        job=tiny.job(tiny_folder),
        cohort=3,
        labels=("no", "yes"),
        model_digest="a" * 64,
        layout_digest="b" * 64,
    )


def test_what_is_read_is_what_was_written(manifest: Manifest) -> None:
    again = read_manifest(manifest.content)
    assert again == manifest
    assert again.digest == manifest.digest


def test_every_part_counts_in_the_digest(manifest: Manifest) -> None:
    table = json.loads(manifest.content)
    digests = {manifest.digest}
    for key, value in {"run": "q", "labels": ["yes", "no"], "model_digest": "c" * 64}.items():
        content = json.dumps(table | {key: value}, sort_keys=True, separators=(",", ":")).encode()
        digests.add(read_manifest(content).digest)
    table["job"]["training"]["rounds"] = 99
    content = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    digests.add(read_manifest(content).digest)
    assert len(digests) == 5


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b" ",
        lambda content: b"[]",
        lambda content: b"null",
        lambda content: content.replace(b'"run"', b'"ran"'),
        lambda content: content.replace(b'"labels"', b'"extra":1,"labels"'),
        lambda content: content.replace(b'"rounds":3', b'"rounds":0'),
    ],
)
def test_anything_else_is_refused(manifest: Manifest, spoil) -> None:
    with pytest.raises(ConfideError):
        read_manifest(spoil(manifest.content))


def test_another_version_is_refused_by_name(manifest: Manifest) -> None:
    content = manifest.content.replace(f'"version":"{VERSION}"'.encode(), b'"version":"9.9.9"')
    with pytest.raises(ProtocolError, match=r"9\.9\.9"):
        read_manifest(content)
