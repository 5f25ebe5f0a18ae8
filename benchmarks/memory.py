"""The coordinator's peak memory by its number of sites, for an adapter of 25 million parameters.

The coordinator of a federation runs as it does: round loop, sums, sealed envelopes, and its own way of
fetching answers. The sites are stand-ins in one process beside it: what they answer with was made up, and
their secrets, shares, receipts and signatures are real. Where Flower's SuperLink would be, a pipe leads to
them, and a round's answers are announced all at once. Each case runs in a process of its own, whose peak
is told, and what it had before its first request.

The last line of ``--json`` has ``peak_mib`` and ``start_mib`` by kind of sum and number of sites, and
``ratio``: by kind, the peak with the most sites over that with the fewest.

Run: python benchmarks/memory.py [--json] [--sites 10,60] [--parameters 25000000] [--rounds 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from stand_ins import serve

from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.manifest import Manifest
from protocol.messages.flower import unwrap, wrap
from protocol.processes.flower_internals import identify_process
from runs.run_folder import RunFolder
from server.evaluation import Unscored
from server.post.prompt_grid import PromptGrid
from server.post.sealed_post import Member, SealedPost
from server.rounds import run_rounds
from tasks.registry import read_job

KINDS = ("none", "masks")
RANK = 8


@dataclass(frozen=True)
class Node:
    """A node that is connected."""

    node_id: int
    public_key: bytes
    last_activated_at: str = "once"


class PipedSuperlink:
    """Flower's Grid and Runtime towards the sites' process."""

    def __init__(self, pipe: Connection, coordinator: bytes, count: int) -> None:
        identify_process(run_id=1, node_id=1, task_id=1)
        self._pipe, self._coordinator = pipe, coordinator
        self._lock = threading.Lock()
        self._waiting: dict[str, Message] = {}
        self._sent = 0
        keys = [ec.generate_private_key(ec.SECP384R1()).public_key() for _ in range(count)]
        pem = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        der = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        self._nodes = [Node(number, key.public_bytes(*pem)) for number, key in enumerate(keys, start=1)]
        self.node_keys = [key.public_bytes(*der) for key in keys]

    def _call(self, what: str, *given: Any) -> Any:
        with self._lock:
            self._pipe.send((what, *given))
            return self._pipe.recv()

    def get_nodes(self) -> Iterable[Any]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            self._sent += 1
            identifier = f"m{self._sent}"
            node = message.metadata.dst_node_id
            self._call("ask", identifier, node, unwrap(message.content), self._coordinator)
            message.metadata.__dict__["_message_id"] = identifier
            answer = Message(wrap(b""), reply_to=message)
            answer.__dict__["_content"] = None
            self._waiting[identifier] = answer
            identifiers.append(identifier)
        return identifiers

    def arrived(self, message_ids: Iterable[str]) -> list[tuple[Message, Any]]:
        """Nothing until all are asked: the worst that sites can do is to answer at once."""
        asked = list(message_ids)
        if len(self._waiting) < len(self._nodes) and len(asked) > 1:
            return []
        return [
            (self._waiting.pop(name), self._call("announce", name))
            for name in asked
            if name in self._waiting
        ]

    def pull_object(self, name: str) -> bytes | None:
        content: bytes = self._call("pull", name)
        return content

    def confirm_received(self, message_id: str) -> None:
        self._call("forget", message_id)


def measure(kind: str, sites: int, parameters: int, rounds: int) -> dict[str, int]:
    """One case, in this very process: MiB."""
    half = parameters // 2 // RANK
    layout = AdapterLayout(
        slots=(
            TensorSlot(name="layer.lora_A.weight", shape=(RANK, half), trained=True),
            TensorSlot(name="layer.lora_B.weight", shape=(half, RANK), trained=True),
        )
    )
    settings = [
        f"training.rounds={rounds}",
        f'aggregation.kind="{kind}"',
        f"federation.sites={sites}",
        'strategy.name="lora"',
    ]
    job = read_job(Path("examples/tweets.toml"), settings=settings)
    manifest = Manifest(
        run="r", job=job, labels=(), model_digest="", layout_digest=layout.digest, cohort=sites
    )
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(
            Path(place) / "run",
            manifest=manifest,
            facts={},
            layout=layout,
            state=job.strategy.start(layout, np.zeros(layout.adapter_size, np.float32)),
            adapter_config={},
        )
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe()
        process = spawn.Process(target=serve, args=(there, manifest.content, layout.update_size))
        process.start()
        there.close()
        superlink = PipedSuperlink(here, folder.identity.public, sites)
        identities = here.recv()
        members = {
            name: Member(identity=identity, node=node)
            for (name, identity), node in zip(identities.items(), superlink.node_keys, strict=True)
        }
        grid = PromptGrid(superlink, runtime=superlink)
        post = SealedPost(
            grid,
            run=manifest.run,
            identity=folder.identity,
            members=members,
            take_counter=folder.take_counter,
            tell=lambda _text: None,
        )
        start = peak()
        run_rounds(post, folder, layout=layout, evaluator=Unscored(), listener=heard)
        grid.close()
        here.close()
        process.join()
    return {"peak_mib": peak(), "start_mib": start}


def heard(record: Any) -> None:
    if record.absent:
        raise RuntimeError(f"expected all sites in round {record.round}, without {record.absent}")


def peak() -> int:
    """MiB that this process had at most so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--sites", default="10,60", help="numbers of sites, in order")
    parser.add_argument("--parameters", type=int, default=25_000_000, help="a multiple of 16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SITES"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        kind, sites = asked.one
        print(json.dumps(measure(kind, int(sites), asked.parameters, asked.rounds)))
        return
    sizes = asked.sites.split(",")
    found: dict[str, dict[str, dict[str, int]]] = {"peak_mib": {}, "start_mib": {}}
    for kind in KINDS:
        for size in sizes:
            command = [sys.executable, __file__, "--one", kind, size, "--rounds", str(asked.rounds)]
            command += ["--parameters", str(asked.parameters)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
            one = json.loads(done.stdout.splitlines()[-1])
            print(f"{kind}, {size} sites: " + ", ".join(f"{key} {value}" for key, value in one.items()))
            for key, value in one.items():
                found[key].setdefault(kind, {})[size] = value
    ratio = {kind: round(by[sizes[-1]] / by[sizes[0]], 3) for kind, by in found["peak_mib"].items()}
    print(json.dumps(found | {"ratio": ratio}) if asked.json else f"ratio: {ratio}")


if __name__ == "__main__":
    main()
