"""A federation without processes: real homes, hosts, workers and mailboxes, and a Grid of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from flwr.app import Error

from client.agent.mailbox import Mailbox
from client.agent.site_host import SiteHost
from client.agent.worker import Worker
from client.custody.home import Home
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.errors import ProtocolError
from privacy.identity import Identity
from privacy.ledger.entries import Begun, Released
from protocol.messages.confide_pb2 import Request
from protocol.messages.envelope import open_envelope
from runs.statistics_folder import StatisticsFolder
from server.post.post import Exchange
from server.post.sealed_post import Member, SealedPost
from server.statistics_round import count_at_sites, statistics_manifest
from tests import tiny
from tests.client.agents import site_table
from tests.server.mail import Mail, member

SITES = ("north", "south", "west")
ROWS = 60  # a site's


class SiteAtHome:
    """One site: what its agent is made of, which can be started anew."""

    def __init__(self, home: Path, name: str, mail: Mail) -> None:
        self.name, self.path, self._mail = name, home, mail
        self._worker: Worker | None = None

    @property
    def home(self) -> Home:
        return Home(self.path)

    def start(self) -> None:
        """As its agent does; whatever it had in memory alone is gone."""
        self.stop()
        site_file = read_site_file(self.path / "site.toml")
        self._mailbox = Mailbox(
            self.path / "outbox",
            site=self.name,
            identity=self.home.identity(),
            coordinator=bytes.fromhex(site_file.rules.coordinator or ""),
            clock=self._mail.ticking.clock.now,
        )
        self._worker = Worker(self._mailbox, queue=4)
        self._worker.start(SiteHost(self.path, site_file, planner=plan_here))

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker.join(60)

    def node(self, content: bytes) -> bytes | Error:
        """What the site's relay brings back for an envelope."""
        worker = self._worker
        if worker is None:
            return Error(code=0, reason="its agent does not run")
        try:
            opened = self._mailbox.open_request(content)
            return self._mailbox.seal(opened.header, worker.submit(opened).result(60))
        except ProtocolError as error:
            return Error(code=0, reason=str(error))

    def charges(self) -> list[Any]:
        """What its ledger says was begun and released."""
        if not self.home.ledger_path.exists():
            return []
        return [one for one in self.home._events() if isinstance(one, Begun | Released)]


class FederationAtHome:
    """Three sites, a coordinator's key and a folder of runs.

    ``rules`` are each site's, but for the coordinator's key.
    """

    def __init__(self, folder: Path, **rules: Any) -> None:
        self.folder = folder
        self.identity = Identity.load_or_create(folder / "coordinator.key")
        self.mail = Mail()
        whole = tiny.table(folder)
        rows = tiny.rows(ROWS * len(SITES))
        homes = {name: folder / "homes" / name for name in SITES}
        self.sites = {name: SiteAtHome(home, name, self.mail) for name, home in homes.items()}
        keys = {name: site.home.identity().public.hex() for name, site in self.sites.items()}
        self.rows = {name: rows[n * ROWS : (n + 1) * ROWS] for n, name in enumerate(SITES)}
        for name, site in self.sites.items():
            data = tiny.write_csv(folder / f"{name}.csv", self.rows[name])
            table = site_table(folder, self.identity, site={"name": name}, rules=rules)
            table["data"]["data"]["source"] = str(data)
            (site.path / "site.toml").write_text(tomli_w.dumps(table))
            (site.path / "peers.toml").write_text(tomli_w.dumps({"peers": keys}))
            self.connect(name)
        self.model = whole["model"]["source"]

    def connect(self, name: str) -> None:
        """Start a site's agent, and bring its node to the grid."""
        self.sites[name].start()
        self.mail.connect(name)
        self.mail.does[name] = self.sites[name].node

    def disconnect(self, name: str) -> None:
        del self.mail.nodes[name]

    def stop(self) -> None:
        for site in self.sites.values():
            site.stop()

    def create(self, name: str = "run", **sections: Any) -> StatisticsFolder:
        """The folder of a new run of statistics."""
        manifest = statistics_manifest(tiny.job(self.folder, **sections), run=name, sites=len(self.sites))
        return StatisticsFolder.create(
            self.folder / "runs" / name, manifest=manifest, coordinator_key=self.folder / "coordinator.key"
        )

    def post(self, folder: StatisticsFolder) -> SealedPost:
        members = {
            name: Member(identity=site.home.identity().public, node=member(name).node)
            for name, site in self.sites.items()
        }
        return SealedPost(
            self.mail.grid,
            run=folder.manifest.run,
            identity=self.identity,
            members=members,
            take_counter=folder.take_counter,
            tell=self.mail.told.append,
            clock=self.mail.ticking.clock,
        )

    def count(self, folder: StatisticsFolder) -> None:
        """Coordinate a run to its end, as whoever was stopped goes on with it."""
        count_at_sites(self.post(folder), folder)

    def asked(self) -> list[tuple[str, str]]:
        """Each request that was sent so far, by site and kind."""
        found = []
        for sent in self.mail.sent:
            opened = open_envelope(
                sent.content, public_key=self.identity.public, sender="coordinator", receiver=sent.site
            )
            found.append((sent.site, str(Request.FromString(opened.payload).WhichOneof("kind"))))
        return found


class KilledAfter:
    """A coordinator's post that ends with it once the sites have answered a kind of request."""

    def __init__(self, post: SealedPost, kind: str) -> None:
        self._post, self._kind = post, kind

    def sites(self) -> tuple[str, ...]:
        return self._post.sites()

    def ask(self, requests: Mapping[str, Request], **options: Any) -> Exchange:
        found = self._post.ask(requests, **options)
        if {request.WhichOneof("kind") for request in requests.values()} == {self._kind}:
            raise KeyboardInterrupt
        return found


class ChangingPost:
    """A coordinator's post that changes requests before they are sealed, and notes what came back."""

    def __init__(self, post: SealedPost, change: Callable[[str, Request], Request]) -> None:
        self._post, self._change = post, change

    def sites(self) -> tuple[str, ...]:
        return self._post.sites()

    def ask(self, requests: Mapping[str, Request], **options: Any) -> Exchange:
        changed = {name: self._change(name, requests[name]) for name in requests}
        return self._post.ask(changed, **options)
