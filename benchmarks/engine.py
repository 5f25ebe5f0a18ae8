"""What the in-process engine adds to a round of 8 sites at 100,000 parameters, beyond training itself.

Sites answer at once with a prepared update, so that a round is all exchange, ledgers, receipts,
averaging, refactoring, accounting and writing. Flower's own simulation of as many empty clients took 100
to 210 ms a round.

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

from privacy.identity import Identity
from privacy.ledger import Charge, Ledger
from privacy.plan import make_plan
from privacy.receipt import Receipt, sign_receipt
from protocol import confide_pb2 as pb
from protocol.confide_pb2 import Joined, Reply, Request, Trained
from protocol.job_file import read_job
from protocol.layout import AdapterLayout, TensorSlot
from protocol.manifest import Manifest
from protocol.vector import to_bytes
from server.evaluation import Score
from server.rounds import run_rounds
from server.run_folder import RunFolder
from simulation.grid import InProcessGrid
from simulation.post import OpenPost

SITES, ROUNDS = 8, 50
# Sixteen layers of rank 8 on 768 by 768: B has 98,304 numbers, A as many.
SLOTS = [
    TensorSlot(name=f"layer.{layer:02d}.lora_{half}.weight", shape=shape, trained=half == "B")
    for layer in range(16)
    for half, shape in (("A", (8, 768)), ("B", (768, 8)))
]


class NoEvaluation:
    """Scoring is the model's time, not the engine's."""

    def score(self, _adapter: np.ndarray) -> Score:
        return Score(loss=1.0, accuracy=0.5)


def main() -> None:
    layout = AdapterLayout(slots=tuple(sorted(SLOTS, key=lambda slot: slot.name)))
    job = read_job(Path("examples/tweets.toml"), settings=[f"training.rounds={ROUNDS}"])
    manifest = Manifest(
        run="r", job=job, labels=(), base_digest="", layout_digest=layout.digest, cohort=SITES
    )
    plan = make_plan(
        mechanism="gaussian",
        epsilon=3.0,
        delta=1e-5,
        clipping_norm=1.0,
        expected_batch_size=256,
        examples=9000,
        steps=ROUNDS * 3,
    )
    update = to_bytes(np.random.default_rng(0).standard_normal(layout.update_size).astype(np.float32))

    def answer_as(name: str, place: Path):
        identity = Identity.load_or_create(place / name / "identity.key")
        ledger = Ledger.open(place / name, site=name, identity=identity, epsilon=3.0, delta=2e-5)
        dataset = ledger.register([b"%d" % number for number in range(9000)])

        def answer(content: bytes) -> bytes:
            request = Request.FromString(content)
            if request.WhichOneof("kind") == "join":
                joined = Joined(manifest_digest=manifest.digest, public_key=identity.public)
                reply = Reply(site=name, joined=joined)
            else:
                number = request.train.round
                digest = manifest.digest.hex()
                charge = Charge(dataset=dataset, run="r", manifest=digest, plan=plan, round=number, steps=3)
                reserved = ledger.reserve(charge)
                receipt = Receipt(
                    site=name,
                    run="r",
                    manifest=digest,
                    round=number,
                    plan=plan,
                    steps=3,
                    taken=reserved.taken,
                    epsilon=plan.epsilon_after(reserved.taken),
                    budget=3.0,
                    head=reserved.head,
                )
                signed = sign_receipt(identity, receipt)
                kept = pb.Receipt(content=signed.content, signature=signed.signature)
                reply = Reply(site=name, trained=Trained(round=number, update=update, receipt=kept))
            return reply.SerializeToString()

        return answer

    with tempfile.TemporaryDirectory() as place:
        adapter = np.random.default_rng(1).standard_normal(layout.adapter_size).astype(np.float32)
        folder = RunFolder.create(
            Path(place) / "run",
            manifest=manifest,
            facts={},
            layout=layout,
            adapter=adapter,
            adapter_config={},
        )
        names = {number: f"site-{number}" for number in range(1, SITES + 1)}
        grid = InProcessGrid({number: answer_as(name, Path(place)) for number, name in names.items()})
        stamps = [time.perf_counter()]

        def listen(_record: object) -> None:
            stamps.append(time.perf_counter())

        run_rounds(OpenPost(grid), folder, layout=layout, evaluator=NoEvaluation(), listener=listen)
    # The first stretch holds the sites' joining too.
    milliseconds = sorted(1000 * (end - start) for start, end in pairwise(stamps[1:]))
    found = {
        "trained_parameters": layout.update_size,
        "sites": SITES,
        "ms_a_round_median": statistics.median(milliseconds),
        "ms_a_round_min": milliseconds[0],
        "ms_a_round_max": milliseconds[-1],
    }
    print(
        json.dumps(found) if sys.argv[-1] == "--json" else "\n".join(f"{k}: {v}" for k, v in found.items())
    )


if __name__ == "__main__":
    main()
