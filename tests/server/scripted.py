"""A federation of scripted sites: who answers, refuses or stays silent, request by request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from privacy.accounting.plan import Plan
from privacy.accounting.sampled_plan import make_count_plan, make_sampled_plan
from privacy.errors import BudgetError, ConfideError, ProtocolError
from privacy.identity import Identity
from privacy.ledger.receipt import Receipt, sign_receipt
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.confide_pb2 import Reply, Request
from protocol.messages.vector import to_bytes
from protocol.sums.update_encoding import plan_for_site
from runs.run_folder import RoundRecord, RunFolder
from server.evaluation import Score
from server.post.post import Exchange, Longest, Take, any_length, check_length, keep_all, refusal
from server.rounds import run_rounds
from tests.server.runs import LAYOUT, STATE, make_job

# What a site does instead of answering: say nothing, refuse with an error, or change its answer.
Act = None | ConfideError | Callable[[Reply], Reply]
Acts = Mapping[tuple[str, str, int], Act]

SITES = ("east", "north", "south")
SPENT = BudgetError("its budget is spent")


class Evaluator:
    """Finds a loss without a model, or a bad one from some round on."""

    def __init__(self, loss: float = 0.5) -> None:
        self.loss = loss

    def score(self, adapter: np.ndarray) -> Score:
        return Score(loss=self.loss, measures={"accuracy": 0.5, "loss": self.loss})

    def outcomes(self, _adapters: list[np.ndarray]) -> list[Any]:
        return []


@cache
def identity(site: str) -> Identity:
    return Identity.generate()


def entry_hash(site: str, taken: int, training: bool = True) -> str:
    """What stands for the hash of the ledger's entry at which a site has taken so many steps."""
    return hashlib.sha256(f"{site} {taken} {training}".encode()).hexdigest()


@cache
def plan(epsilon: float, steps: int) -> Plan:
    return make_sampled_plan(
        mechanism="gaussian",
        epsilon=epsilon,
        delta=1e-5,
        clipping_norm=1.0,
        expected_batch_size=64,
        examples=640,
        steps=steps,
    )


def run_job(*, min_sites: int | None = 2, rounds: int = 3, metrics: float = 0.0, **sections: Any) -> Job:
    return make_job(
        federation={"min_sites": min_sites},
        training={"rounds": rounds},
        strategy={"name": "ffa"},
        metrics={"epsilon": metrics},
        **sections,
    )


def make_folder(path: Path, job: Job | None = None, *, cohort: int = 3) -> RunFolder:
    manifest = Manifest(
        run=path.name,
        job=job or run_job(),
        cohort=cohort,
        labels=("bad", "good"),
        model_digest="ab" * 32,
        layout_digest=LAYOUT.digest,
    )
    facts = {
        "versions": {},
        "device": "cpu",
        "model_digest": "ab" * 32,
        "trained_parameters": 4,
        "adapter_parameters": 4,
        "frozen_layers_below": 0,
        "labels": ["bad", "good"],
        "held_out_examples": 100,
    }
    return RunFolder.create(
        path, manifest=manifest, facts=facts, layout=LAYOUT, state=STATE, adapter_config={}
    )


class ScriptedPost:
    """Sites that do as ``acts`` say, by site, kind of request and round, and answer otherwise.

    ``asked`` lists each request that was sent: site, kind, round, and whether it was aside. After a kill
    the sites are those of ``before``: what they answered once, they answer again.
    """

    def __init__(
        self,
        folder: RunFolder,
        acts: Acts | None = None,
        sites: tuple[str, ...] = SITES,
        *,
        before: ScriptedPost | None = None,
    ) -> None:
        self.manifest = folder.manifest
        self.acts = dict(acts or {})
        self.names = sites
        self.taken = dict.fromkeys(sites, 0) | (before.taken if before else {})
        self.kept = dict(before.kept) if before else {}
        self.asked: list[tuple[str, str, int, bool]] = []

    def sites(self) -> tuple[str, ...]:
        return self.names

    def ask(
        self,
        requests: Mapping[str, Request],
        *,
        round_number: int,
        min_survivors: int,
        seconds: float,
        enough: int | None = None,
        side_requests: Mapping[str, Request] | None = None,
        take: Take = keep_all,
        longest: Longest = any_length,
    ) -> Exchange:
        replies, refused, silent = {}, {}, {}
        for site, request in sorted({**requests, **(side_requests or {})}.items()):
            kind = str(request.WhichOneof("kind"))
            self.asked.append((site, kind, round_number, site not in requests))
            act = self.acts.get((site, kind, round_number), lambda reply: reply)
            if isinstance(act, ConfideError):
                refused[site] = act
            elif act is not None:
                key = site, request.SerializeToString()
                if key not in self.kept:
                    self.kept[key] = self.answer(site, request, round_number).SerializeToString()
                reply = act(Reply.FromString(self.kept[key]))
                error = refusal(reply)
                if error is not None:
                    refused[site] = error
                    continue
                try:
                    check_length(site, kind, reply.ByteSize(), longest(kind))
                    replies[site] = take(site, reply)
                except ProtocolError as broken:
                    refused[site] = broken
            elif site in requests:
                silent[site] = "it is not connected"
        return Exchange(replies=replies, refused=refused, silent=silent, bytes_up=1, bytes_down=1)

    def answer(self, site: str, request: Request, number: int) -> Reply:
        job = self.manifest.job
        if request.WhichOneof("kind") == "join":
            joined = pb.Joined(manifest_digest=self.manifest.digest, public_key=identity(site).public)
            return Reply(site=site, joined=joined)
        if request.WhichOneof("kind") == "evaluate":
            count = make_count_plan(epsilon=job.metrics.epsilon, delta=job.privacy.delta)
            receipt = self.receipt(site, number, plan=count, steps=1, taken=1, purpose="metrics")
            return Reply(site=site, evaluated=pb.Evaluated(right=2**30, examples=2, receipt=receipt))
        self.taken[site] += job.steps_in(1)
        receipt = self.receipt(
            site, number, plan=self.plan(), steps=job.steps_in(1), taken=self.taken[site]
        )
        update = to_bytes(self.update(site, number))
        return Reply(site=site, trained=pb.Trained(round=number, update=update, receipt=receipt))

    def plan(self) -> Plan:
        """What each site has planned for."""
        job = self.manifest.job
        if job.privacy.unit == "site":
            return plan_for_site(self.manifest, update_size=LAYOUT.update_size)
        return plan(job.privacy.epsilon, job.training.total_steps)

    def update(self, site: str, number: int) -> np.ndarray:
        """A site's update in a round: float32[update_size]."""
        return np.full(LAYOUT.update_size, self.names.index(site), np.float32)

    def receipt(self, site: str, number: int, *, plan: Plan, taken: int, **values: Any) -> pb.Receipt:
        job, training = self.manifest.job, values.get("purpose") != "metrics"
        receipt = Receipt(
            site=site,
            run=self.manifest.run,
            manifest=self.manifest.digest.hex(),
            round=number,
            plan=plan,
            taken=taken,
            epsilon=plan.epsilon_after(taken) if training else plan.pure_epsilon,
            budget=job.privacy.epsilon if training else job.metrics.epsilon,
            head=entry_hash(site, taken, training),
            **values,
        )
        signed = sign_receipt(identity(site), receipt)
        return pb.Receipt(content=signed.content, signature=signed.signature)


def go(folder: RunFolder, post: ScriptedPost, *, loss: float = 0.5) -> list[RoundRecord]:
    """Run the rounds, and give the records that the listener heard of."""
    heard: list[RoundRecord] = []
    evaluator: Any = Evaluator(loss)
    run_rounds(post, folder, layout=LAYOUT, evaluator=evaluator, listener=heard.append)
    return heard
