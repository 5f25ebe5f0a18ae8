"""The federation's sites as Flower's SuperLink knows them: every site that is not revoked, and nobody else.

Flower's list of nodes has neither their names nor their keys, so ``nodes.json`` in its home remembers whose
each number is. Nodes are registered one at a time and written down at once: what a kill can leave behind is
one node that nobody remembers, whose key Flower then says it has already.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from privacy.durable import write_durably
from privacy.errors import RunError
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.flower_cli import FlowerCli


@dataclass(frozen=True, kw_only=True)
class SiteNode:
    """Flower's number for a site's node, and its public key as ``ecdsa-sha2-nistp384 AAAA…``."""

    site: str
    id: int
    key: str


def read_nodes(home: Path) -> list[SiteNode]:
    """Every node that was ever registered for a site, oldest first. Raises RunError."""
    path = home / "nodes.json"
    try:
        table = json.loads(path.read_text()) if path.exists() else []
        return [SiteNode(**node) for node in table]
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


class NodeList:
    """What ``federation.json`` says, brought to Flower's list of nodes."""

    def __init__(self, folder: CoordinatorFolder, flower: FlowerCli, *, say: Callable[[str], None]) -> None:
        self._folder, self._flower, self._say = folder, flower, say

    def apply(self, *, stopping: Callable[[], bool] = lambda: False) -> list[str]:
        """Unregister who is out, then register who is in. Doing it again changes nothing.

        Returns what could not be done, a line a site. Raises RunError if the SuperLink does not answer.
        """
        sites = self._folder.federation.active_sites
        wanted = {name: bare_key(site.node) for name, site in sites.items()}
        alive = {node.id for node in self._flower.nodes() if not node.unregistered}
        nodes = read_nodes(self._folder.flower_home)

        for node in nodes:
            if node.id in alive and wanted.get(node.site) != node.key and not stopping():
                self._flower.unregister(node.id)
                alive.remove(node.id)
                self._say(f"site {node.site} is out: its node may not connect any more")

        problems = []
        for site, key in wanted.items():
            if stopping() or any(node.id in alive and node.site == site for node in nodes):
                continue
            strangers = alive - {node.id for node in nodes}
            try:
                nodes.append(SiteNode(site=site, id=self._register(site, key, nodes, strangers), key=key))
            except RunError as error:
                problems.append(f"site {site}: {error}")
                continue
            alive.add(nodes[-1].id)
            self._write(nodes)

        for stranger in alive - {node.id for node in nodes}:
            if not stopping():
                self._flower.unregister(stranger)
                self._say(
                    f"Flower's node {stranger} is no site of the federation: it may not connect any more"
                )
        return problems

    def _register(self, site: str, key: str, nodes: list[SiteNode], strangers: set[int]) -> int:
        path = self._folder.node_key(site)
        if not path.exists() or bare_key(path.read_text()) != key:
            raise RunError(f"{path} does not hold the node's key of federation.json: provision it again")
        number = self._flower.register(path, name=site)
        if number is not None:
            self._say(f"site {site} may connect now")
            return number
        if any(node.key == key for node in nodes):
            raise RunError("its node's key was revoked, and Flower takes no key twice: give it a new one")
        if len(strangers) != 1:
            raise RunError(
                f"Flower knows its node's key already, as one of {len(strangers)} that are no site's: "
                "give it a new one"
            )
        return next(iter(strangers))  # registered just before a kill

    def _write(self, nodes: list[SiteNode]) -> None:
        content = json.dumps([asdict(node) for node in nodes], indent=1)
        write_durably(self._folder.flower_home / "nodes.json", content.encode())


def bare_key(text: str) -> str:
    """A public key in OpenSSH's form without its comment."""
    return " ".join(text.split()[:2])
