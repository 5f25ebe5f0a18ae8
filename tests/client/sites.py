"""Asking a site, and what its replies and its ledger say."""

from __future__ import annotations

import json
from pathlib import Path

from client.custody.home import Home
from client.site import Site
from privacy.ledger.entries import Released
from privacy.ledger.ledger_audit import audit_ledger
from protocol.job.manifest import Manifest
from protocol.messages.confide_pb2 import Join, Reply, Request, Train
from protocol.messages.vector import to_bytes
from simulation.simulated_federation import World


def ask(site: Site, **request: Join | Train) -> Reply:
    return Reply.FromString(site.answer(Request(**request).SerializeToString()))


def join(site: Site, manifest: Manifest) -> Reply:
    return ask(site, join=Join(manifest=manifest.content))


def train(site: Site, manifest: Manifest, world: World, number: int = 1, **changes: bytes) -> Reply:
    fields = {"manifest_digest": manifest.digest, "adapter": to_bytes(world.initial_adapter)} | changes
    return ask(site, train=Train(round=number, **fields))


def approve(home: Home, run: str) -> Manifest:
    """Approve a run that waits, as its custodian does."""
    manifest = home.waiting(run)
    home.approve(manifest)
    return manifest


def charges(home: Path) -> list[Released]:
    """What a home's ledger says was released."""
    entries = audit_ledger(home / "ledger.db").entries
    return [entry.event for entry in entries if isinstance(entry.event, Released)]


def epsilon(reply: Reply) -> float:
    """What the receipt in a reply says was spent."""
    return json.loads(reply.trained.receipt.content)["epsilon"]
