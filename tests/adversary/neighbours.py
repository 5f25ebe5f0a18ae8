"""Two sites that differ in one example, asked the same: what leaves each, but for noise and keys."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

import client.site
from client.agent.site_host import SiteHost
from client.custody.home import Home
from client.custody.site_file import read_site_file
from client.planning import plan_here
from privacy.identity import Identity
from privacy.ledger.entries import Registered
from privacy.ledger.ledger_audit import audit_ledger
from privacy.mechanisms.rng import keyed_source
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import COORDINATOR, open_envelope
from simulation.simulated_federation import World
from tests.client.agents import Coordinator, site_table
from tests.client.masked_sites import MaskedSites
from tests.tiny import WORDS

POISON = "cold"  # a word that stands in no other row
ROW = 5  # the row that differs
ROWS = 40

# What stands in that row, in bytes as they are in the file: text and label.
EXAMPLES: dict[str, tuple[bytes, bytes]] = {
    "poison": (POISON.encode() + b" day", b"yes"),
    "undecodable": (b"good \xff\xfe\x80", b"yes"),
    "empty": (b"", b"yes"),
    "plain": (b"good day", b"yes"),
    "another": (b"poor night late", b"no"),
    "one word": (b"good", b"yes"),
    "long": (b" ".join([b"good"] * 3000), b"yes"),
    "unknown": (b"xylophone zebra", b"no"),
    "control": (b"good \x1b[31m\x00 day", b"yes"),
    "no label": (b"good day", b""),
    "another label": (b"good day", b"maybe"),
    "duplicate": (b"warm food", b"yes"),
}


def write_rows(path: Path, example: str) -> Path:
    """A file of texts and labels that are all alike, but for one row."""
    generator = np.random.default_rng(1)
    words = [word for word in WORDS if word != POISON]
    rows = [(" ".join(generator.choice(words, 4)), "yes" if n % 2 else "no") for n in range(ROWS)]
    rows[0] = ("warm food", "yes")
    text = io.StringIO()
    csv.writer(text).writerows([("text", "label"), *rows])
    lines = text.getvalue().encode().split(b"\r\n")
    content, label = EXAMPLES[example]
    lines[ROW + 1] = b'"' + content + b'",' + label
    path.write_bytes(b"\r\n".join(lines))
    return path


@dataclass
class Party:
    """A real site, whose home and data are its own: it answers as behind its agent."""

    name: str
    home: Path
    coordinator: Coordinator
    resident: SiteHost
    run: str = "run"
    # What a reader of the wire sees, reply by reply.
    seen: list[dict[str, Any]] = field(default_factory=list)
    updates: list[bytes] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        home: Path,
        *,
        name: str,
        data: Path,
        coordinator: Coordinator,
        models: dict[str, str],
        task: str,
    ) -> Party:
        columns = {"source": str(data)} | (
            {"label": "label", "labels": ["no", "yes"]} if task == "sequence-classification" else {}
        )
        table = site_table(home, coordinator.identity)
        table |= {"site": {"name": name, "coordinator": "localhost:8443"}, "data": {"data": columns}}
        table |= {"models": models, "budget": {"epsilon": 900.0, "delta": 0.01}}
        table["rules"]["central_noise"] = "allowed"
        table["rules"]["mechanisms"] = ["gaussian", "laplace", "skellam", "none"]
        home.mkdir(parents=True, exist_ok=True)
        (home / "site.toml").write_text(tomli_w.dumps(table))
        resident = SiteHost(home, read_site_file(home / "site.toml"), planner=plan_here)
        return cls(name=name, home=home, coordinator=coordinator, resident=resident)

    def answer(self, content: bytes) -> bytes:
        """Answer a serialized Request, and note what can be seen of the reply."""
        request = pb.Request.FromString(content)
        number = request.train.round if request.HasField("train") else 0
        if request.HasField("join"):
            request.join.signature = self.coordinator.identity.sign("manifest", request.join.manifest)
        sealed = self.coordinator.seal(
            request, run=self.run, round_number=number, receiver=self.name, sender=COORDINATOR
        )
        public = self.coordinator.identity.public
        opened = open_envelope(sealed, public_key=public, sender=COORDINATOR, receiver=self.name)
        reply = self.resident.answer(opened)
        self.seen.append(view(pb.Reply.FromString(reply)))
        if pb.Reply.FromString(reply).HasField("trained"):
            self.updates.append(pb.Reply.FromString(reply).trained.update)
        return reply

    def ledger(self) -> list[dict[str, Any]]:
        """What the ledger says, but for keys, salts, times and the data's digest."""
        events = [entry.event for entry in audit_ledger(self.home / "ledger.db").entries[1:]]
        return [
            {"kind": "registered"}
            if isinstance(event, Registered)
            else {"kind": type(event).__name__, **vars(event)}
            for event in events
        ]


def view(reply: pb.Reply) -> dict[str, Any]:
    """What a reader can compare of a reply: every field, but noise and what a site draws or signs itself.

    Of what is random, its length is seen.
    """
    kind = reply.WhichOneof("kind")
    seen: dict[str, Any] = {"kind": kind, "site": reply.site}
    if kind == "refused":
        refused = reply.refused
        return seen | {
            "reason": refused.reason,
            "code": refused.exit_code,
            "spent": refused.budget_spent,
            "lost": refused.lost,
        }
    return seen | _fields(getattr(reply, kind))


def _fields(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name == "receipt":
            content = json.loads(value.content)
            found[name] = {key: content[key] for key in content if key != "head"}
        elif name == "right":
            found[name] = "a count with noise"
        elif isinstance(value, bytes):
            found[name] = len(value)
        elif isinstance(value, int | float | str):
            found[name] = value
        elif hasattr(value, "ListFields"):
            found[name] = _fields(value)
        else:
            found[name] = [len(one) if isinstance(one, bytes) else _fields(one) for one in value]
    return found


@contextmanager
def same_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within this block each site draws the same noise and the same samples as the last one did."""
    numbers = count()
    with monkeypatch.context() as patched:
        patched.setattr(
            client.site, "fresh_entropy", lambda *_: keyed_source(7, "neighbours", next(numbers))
        )
        yield


class Federation(MaskedSites):
    """Real sites side by side, of which the first one's data differ."""

    def __init__(
        self,
        world: World,
        manifest: Manifest,
        homes: Path,
        *,
        coordinator: Coordinator,
        models: dict[str, str],
        example: str,
        before: Manifest | None = None,
    ) -> None:
        """``before`` is the manifest of a run that each site joins first."""
        self._coordinator, self._models, self._before = coordinator, models, before
        data = {name: homes / f"{name}.csv" for name in world.site_names}
        homes.mkdir(parents=True, exist_ok=True)
        for place, path in enumerate(data.values()):
            write_rows(path, example if place == 0 else "plain")
        self._data = data
        keys = {name: self._identity(homes / name).public.hex() for name in world.site_names}
        for name in world.site_names:
            peers = "".join(f'{site} = "{key}"\n' for site, key in keys.items())
            (homes / name / "peers.toml").write_text(f"[peers]\n{peers}")
        self._manifest = manifest
        super().__init__(world, homes)

    @staticmethod
    def _identity(home: Path) -> Identity:
        home.mkdir(parents=True)
        return Home(home).identity()

    def restart(self, name: str) -> None:
        self.sites[name] = Party.start(  # type: ignore[assignment]
            self.homes / name,
            name=name,
            data=self._data[name],
            coordinator=self._coordinator,
            models=self._models,
            task=self.world.job.task,
        )

        if self._before is not None:
            party = self.first if name == self.world.site_names[0] else self.sites[name]
            party.run = self._before.run  # type: ignore[attr-defined]
            party.answer(pb.Request(join=pb.Join(manifest=self._before.content)).SerializeToString())
            party.run = "run"  # type: ignore[attr-defined]

    @property
    def first(self) -> Party:
        return self.sites[self.world.site_names[0]]  # type: ignore[return-value]


def largest_move(job: Any) -> float:
    """How far one example can move an update, the noise being the same: by all steps, from blank to any."""
    training = job.training
    if training.optimizer == "adam" or job.compression.kind == "top-k":
        return math.inf  # what these make of a noisy gradient is no longer bounded by the gradient
    steps = training.local_steps * training.learning_rate / training.batch_size
    return 2.0 * steps * job.privacy.clipping_norm


def moved(first: Sequence[bytes], second: Sequence[bytes]) -> tuple[float, float]:
    """How far updates lie apart at most, and how far rounding to float32 may put equal ones."""
    apart, rounding = 0.0, 0.0
    for one, other in zip(first, second, strict=True):
        a, b = (np.frombuffer(content, "<f4").astype(np.float64) for content in (one, other))
        apart = max(apart, float(np.linalg.norm(a - b)))
        rounding = max(rounding, 2.0**-22 * float(np.linalg.norm(a)))
    return apart, rounding
