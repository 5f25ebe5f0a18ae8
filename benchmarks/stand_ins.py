"""Stand-ins for sites in the benchmark of the coordinator's memory: what they answer with was made up.

Their secrets, shares, receipts and signatures are real. They are all in one process, and a pipe leads to
them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from flwr.app import Message, MessageType

from client.sums.masked_session import MaskedSession
from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.identity import Identity
from privacy.ledger.receipt import Receipt, sign_receipt
from privacy.secagg.ring import Ring
from protocol.job.manifest import Manifest, read_manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.envelope import COORDINATOR, Header, open_envelope, seal
from protocol.messages.flower import wrap
from protocol.processes.flower_internals import deflate, identify_process
from protocol.sums.mask_messages import asked_to_train, make_rules


@dataclass(kw_only=True)
class StandIn:
    """A site that has trained already."""

    name: str
    manifest: Manifest
    update: bytes
    identity: Identity = field(default_factory=Identity.generate)
    taken: int = 0
    session: Any = None

    def know(self, peers: dict[str, bytes]) -> None:
        if self.manifest.job.aggregation.kind == "masks":
            rules = make_rules(self.manifest)
            self.session = MaskedSession(
                site=self.name, rules=rules, identity=self.identity, peers=peers, path=None
            )

    def reply(self, request: pb.Request) -> pb.Reply:
        """The answer, but for the update, which is added whenever it is sent."""
        kind = request.WhichOneof("kind")
        if kind == "join":
            joined = pb.Joined(manifest_digest=self.manifest.digest, public_key=self.identity.public)
            if self.session:
                member = self.session.join()
                joined.session_key, joined.session_signature = member.key, member.signature
            return pb.Reply(site=self.name, joined=joined)
        if kind == "deal":
            return pb.Reply(site=self.name, dealing=self.session.deal(request.deal.roster))
        if kind == "confirm":
            signature = self.session.confirm(request.confirm)
            return pb.Reply(site=self.name, confirmed=pb.Confirmed(signature=signature))
        if kind == "unmask":
            return pb.Reply(site=self.name, unmasked=self.session.reveal(request.unmask)[0])
        return pb.Reply(site=self.name, trained=self.trained(request.train))

    def trained(self, request: pb.Train) -> pb.Trained:
        job = self.manifest.job
        trained = pb.Trained(round=request.round, receipt=self.receipt(request.round))
        if self.session:
            # The secrets move on; the masks are spared, and the coordinator's sum is noise.
            ring = Ring(job.masks.modulus_bits)
            _, dealing = self.session.contribute(
                request.cohort,
                np.zeros(1, ring.dtype),
                asked=asked_to_train(request),
                ring=ring,
                round_number=request.round,
                following=request.next if request.HasField("next") else None,
            )
            if dealing is not None:
                trained.next.CopyFrom(dealing)
        return trained

    def receipt(self, number: int) -> pb.Receipt:
        job = self.manifest.job
        plan = make_sampled_plan(
            mechanism=job.privacy.mechanism,
            epsilon=job.privacy.epsilon,
            delta=job.privacy.delta,
            clipping_norm=job.privacy.clipping_norm,
            expected_batch_size=64,
            examples=640,
            steps=job.training.total_steps,
        )
        self.taken += job.steps_in(1)
        receipt = Receipt(
            site=self.name,
            run=self.manifest.run,
            manifest=self.manifest.digest.hex(),
            round=number,
            plan=plan,
            steps=job.steps_in(1),
            taken=self.taken,
            epsilon=plan.epsilon_after(self.taken),
            budget=job.privacy.epsilon,
            head=sha256(f"{self.name} {self.taken}".encode()).hexdigest(),
        )
        signed = sign_receipt(self.identity, receipt)
        return pb.Receipt(content=signed.content, signature=signed.signature)


class StandIns:
    """All sites, in their process: an answer is made when it is announced, and once more to be fetched."""

    def __init__(self, manifest: Manifest, size: int) -> None:
        identify_process(run_id=1, node_id=1, task_id=2)
        # Any bytes are words under masks; these are finite float32 too.
        update = np.random.default_rng(0).standard_normal(size).astype("<f4").tobytes()
        self.sites = [
            StandIn(name=f"site-{number}", manifest=manifest, update=update)
            for number in range(1, manifest.cohort + 1)
        ]
        peers = {site.name: site.identity.public for site in self.sites}
        for site in self.sites:
            site.know(peers)
        self.asked: dict[str, tuple[int, Header, pb.Reply]] = {}
        self.short: dict[str, bytes] = {}
        self.message_of: dict[str, str] = {}
        self.whole: dict[str, dict[str, bytes]] = {}

    def ask(self, message: str, node: int, content: bytes, coordinator: bytes) -> None:
        site = self.sites[node - 1]
        opened = open_envelope(content, public_key=coordinator, sender=COORDINATOR, receiver=site.name)
        reply = site.reply(pb.Request.FromString(opened.payload))
        self.asked[message] = node, opened.header, reply

    def announce(self, message: str) -> Any:
        """The tree of an answer's objects."""
        tree, objects = self._objects(message)
        for name, content in objects.items():
            if len(content) < 100_000:
                self.short[name] = content
            self.message_of[name] = message
        return tree

    def pull(self, name: str) -> bytes:
        if name not in self.short:
            message = self.message_of[name]
            if message not in self.whole:
                self.whole[message] = self._objects(message)[1]
            return self.whole[message][name]
        return self.short[name]

    def forget(self, root: str) -> None:
        message = self.message_of[root]
        self.whole.pop(message, None)
        self.asked.pop(message)

    def _objects(self, message: str) -> tuple[Any, dict[str, bytes]]:
        node, header, small = self.asked[message]
        site, reply = self.sites[node - 1], pb.Reply()
        reply.CopyFrom(small)
        if reply.HasField("trained"):
            # Each another one, so that no two sites' parts are the same.
            reply.trained.update = site.update[4 * node :] + site.update[: 4 * node]
        content = seal(
            site.identity,
            reply.SerializeToString(),
            run=header.run,
            round_number=header.round,
            sender=site.name,
            receiver=COORDINATOR,
            counter=header.counter,
            sent=header.sent,
            expires=header.expires,
        )
        asked = Message(wrap(b""), node, MessageType.TRAIN, ttl=3600.0)
        asked.metadata.__dict__["_message_id"] = message
        return deflate(Message(wrap(content), reply_to=asked))


def serve(pipe: Connection, manifest: bytes, size: int) -> None:
    """The sites' process."""
    sites = StandIns(read_manifest(manifest), size)
    pipe.send({site.name: site.identity.public for site in sites.sites})
    while True:
        try:
            what, *given = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(sites, what)(*given))
