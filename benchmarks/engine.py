"""What the in-process engine adds to a round of 8 and of 100 sites at 100,000 parameters, beyond training.

Sites answer at once with a prepared update, so that a round is all exchange, ledgers, receipts,
averaging, refactoring, accounting and writing; with masks, dealing, masking and unmasking too, and two
messages more. Flower's own simulation of as many empty clients took 100 to 210 ms a round.

The last line of ``--json`` has the medians: ``ms_8``, ``ms_8_masks``, ``ms_100`` and ``ms_100_masks``.

Run: python benchmarks/engine.py [--json]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from client.sums.open_sums import open_sums
from client.sums.sum_session import Party
from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.identity import Identity
from privacy.ledger.ledger import Charge, Ledger
from privacy.ledger.receipt import Receipt, sign_receipt
from privacy.mechanisms.rng import fresh_source
from privacy.secagg.sealing import PairKeys
from protocol.job.layout import AdapterLayout, TensorSlot
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Joined, Reply, Request, Trained
from runs.run_folder import RunFolder
from server.evaluation import Score
from server.rounds import run_rounds
from simulation.grid import InProcessGrid
from simulation.local_post import OpenPost
from tasks.registry import read_job
from tasks.task import Outcome

# Rounds that are timed, by the number of sites.
ROUNDS = {8: 50, 100: 10}
# Sixteen layers of rank 8 on 768 by 768: B has 98,304 numbers, A as many.
SLOTS = [
    TensorSlot(name=f"layer.{layer:02d}.lora_{half}.weight", shape=shape, trained=half == "B")
    for layer in range(16)
    for half, shape in (("A", (8, 768)), ("B", (768, 8)))
]


class NoEvaluation:
    """Scoring is the model's time, not the engine's."""

    def score(self, _adapter: np.ndarray) -> Score:
        return Score(loss=1.0, measures={"accuracy": 0.5, "loss": 1.0})

    def outcomes(self, _adapters: list[np.ndarray]) -> list[list[Outcome]]:
        return []


def answer_as(
    name: str,
    place: Path,
    manifest: Manifest,
    peers: dict[str, bytes],
    layout: AdapterLayout,
    pairs: PairKeys,
):
    """A site that has trained already."""
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=3.0,
        delta=1e-5,
        clipping_norm=1.0,
        expected_batch_size=256,
        examples=9000,
        steps=manifest.job.training.total_steps,
    )
    update = np.random.default_rng(0).standard_normal(layout.update_size).astype(np.float32)
    identity = Identity.load(place / name / "identity.key")
    # As the simulation opens those of homes that are the run's own.
    ledger = Ledger.open(place / name, site=name, identity=identity, epsilon=3.0, delta=2e-5, flush=False)
    dataset = ledger.register([b"%d" % number for number in range(9000)])
    party = Party(site=name, identity=identity, peers=lambda: peers, secrets=None, pairs=pairs)
    sums = open_sums(manifest, update_size=layout.update_size, plan=plan, party=party, ledger=ledger)

    def join() -> Joined:
        joined = Joined(manifest_digest=manifest.digest, public_key=identity.public)
        sums.join(joined)
        return joined

    def train(request: pb.Train) -> Trained:
        sums.check(request)
        digest = manifest.digest.hex()
        charge = Charge(dataset=dataset, run="r", manifest=digest, plan=plan, round=request.round, steps=3)
        reserved = ledger.reserve(charge)
        receipt = Receipt(
            site=name,
            run="r",
            manifest=digest,
            round=request.round,
            plan=plan,
            steps=3,
            taken=reserved.taken,
            epsilon=plan.epsilon_after(reserved.taken),
            budget=3.0,
            head=reserved.head,
        )
        signed = sign_receipt(identity, receipt)
        kept = pb.Receipt(content=signed.content, signature=signed.signature)
        trained = sums.contribute(update, request, fresh_source())
        trained.receipt.CopyFrom(kept)
        return trained

    def answer(content: bytes) -> bytes:
        request = Request.FromString(content)
        kind = request.WhichOneof("kind")
        if kind == "join":
            reply = Reply(site=name, joined=join())
        elif kind == "train":
            reply = Reply(site=name, trained=train(request.train))
        else:
            reply = sums.answer(request)
            reply.site = name
        return reply.SerializeToString()

    return answer


def milliseconds(kind: str, sites: int) -> list[float]:
    """Milliseconds of each round but the first, which holds the sites' joining too; in order of length."""
    layout = AdapterLayout(slots=tuple(sorted(SLOTS, key=lambda slot: slot.name)))
    settings = [f"training.rounds={ROUNDS[sites]}", f"aggregation.kind={kind}", f"federation.sites={sites}"]
    job = read_job(Path("examples/tweets.toml"), settings=settings)
    manifest = Manifest(
        run="r", job=job, labels=(), model_digest="", layout_digest=layout.digest, cohort=sites
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        adapter = np.random.default_rng(1).standard_normal(layout.adapter_size).astype(np.float32)
        run = RunFolder.create(
            place / "run",
            manifest=manifest,
            facts={},
            layout=layout,
            state=job.strategy.start(layout, adapter),
            adapter_config={},
            flush=False,
        )
        names = {number: f"site-{number}" for number in range(1, sites + 1)}
        peers = {
            name: Identity.load_or_create(place / name / "identity.key").public for name in names.values()
        }
        pairs = PairKeys()
        sites = {
            number: answer_as(name, place, manifest, peers, layout, pairs) for number, name in names.items()
        }
        grid = InProcessGrid(sites)
        stamps = [time.perf_counter()]

        def listen(_record: object) -> None:
            stamps.append(time.perf_counter())

        run_rounds(OpenPost(grid), run, layout=layout, evaluator=NoEvaluation(), listener=listen)
    return sorted(1000 * (end - start) for start, end in pairwise(stamps[1:]))


def main() -> None:
    found: dict[str, float] = {}
    for sites in ROUNDS:
        for how, ending in (("none", ""), ("masks", "_masks")):
            rounds = milliseconds(how, sites)
            found[f"ms_{sites}{ending}"] = statistics.median(rounds)
            if "--json" not in sys.argv:
                median, fastest = statistics.median(rounds), rounds[0]
                print(f"{sites} sites, {how}: median {median:.1f} ms a round, fastest {fastest:.1f}")
    if "--json" in sys.argv:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
