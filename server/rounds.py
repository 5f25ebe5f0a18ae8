"""The round loop: join, train, average, evaluate, write; again until done, then metrics if asked for."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from privacy.entries import Purpose
from privacy.errors import BudgetError, ProtocolError, RunError
from privacy.receipt import Receipt, SignedReceipt
from protocol import confide_pb2 as pb
from protocol.confide_pb2 import Evaluate, Join, Request, Train
from protocol.layout import AdapterLayout
from protocol.manifest import MANIFEST_PURPOSE, Manifest
from protocol.vector import from_bytes, to_bytes
from server.evaluation import Evaluator
from server.exchange import Exchange, exchange
from server.metrics import Metrics, SiteMetrics
from server.run_folder import RoundRecord, RunFolder
from strategies.strategy import next_adapter

Listener = Callable[[RoundRecord], None]

log = logging.getLogger("confide.rounds")


def run_rounds(
    grid: Grid,
    folder: RunFolder,
    *,
    layout: AdapterLayout,
    evaluator: Evaluator,
    listener: Listener,
) -> None:
    """Run the rounds that the folder's manifest asks for and that it does not hold yet.

    Each finished round is on disk before the next begins, so a killed run goes on from there. The
    run ends early, and its log says so, if a site has taken all the steps that it planned for:
    interrupted rounds count. Metrics are asked for after the last round, and again where they were lost:
    then a site that has answered once refuses, and the run ends without. Raises SiteError, ProtocolError
    or RunError.
    """
    manifest = folder.manifest
    nodes = sorted(grid.get_node_ids())
    if not nodes:
        raise RunError("no site is connected")
    signature = folder.identity.sign(MANIFEST_PURPOSE, manifest.content)
    join = Request(join=Join(manifest=manifest.content, signature=signature))
    joined = exchange(grid, nodes, join)
    _check_joined(joined, manifest)
    folder.keep_public_keys({name: reply.joined.public_key for name, reply in joined.replies.items()})
    done = folder.records()
    start = len(done)
    log.info("joined by %s; %d rounds done", ", ".join(joined.replies), start)
    adapter = folder.load_adapter(start, layout)
    for number in range(start + 1, manifest.job.training.rounds + 1):
        began = time.perf_counter()
        request = Train(manifest_digest=manifest.digest, round=number, adapter=to_bytes(adapter))
        try:
            answers = exchange(grid, nodes, Request(train=request))
        except BudgetError as error:
            log.warning("the run ends after round %d: %s", number - 1, error)
            return
        trained = time.perf_counter()
        adapter = next_adapter(manifest.job, layout, adapter, _updates(answers, number, layout))
        score = evaluator.score(adapter)
        if not math.isfinite(score.loss):
            raise RunError(f"round {number}: the held-out loss is NaN; lower training.learning_rate")
        sent = {name: reply.trained.receipt for name, reply in answers.replies.items()}
        signed, receipts = _receipts(sent, number, folder)
        folder.save_receipts(number, signed)
        record = RoundRecord(
            round=number,
            loss=score.loss,
            accuracy=score.accuracy,
            epsilon={name: receipt.epsilon for name, receipt in receipts.items()},
            bytes_up=answers.bytes_up,
            bytes_down=answers.bytes_down,
            seconds=time.perf_counter() - began,
            training_seconds=trained - began,
        )
        folder.finish_round(record, layout, adapter)
        log.info("round %d: loss %.4f, accuracy %.4f", number, score.loss, score.accuracy)
        listener(record)
    if manifest.job.metrics.epsilon > 0 and folder.metrics is None:
        _ask_metrics(grid, nodes, folder, adapter)


def _ask_metrics(grid: Grid, nodes: Sequence[int], folder: RunFolder, adapter: NDArray[np.float32]) -> None:
    """Ask the sites how the last adapter does on their own examples, and write down what they say."""
    manifest = folder.manifest
    job = manifest.job
    request = Evaluate(manifest_digest=manifest.digest, adapter=to_bytes(adapter))
    try:
        answers = exchange(grid, nodes, Request(evaluate=request))
    except BudgetError as error:
        log.warning("the run ends without metrics: %s", error)
        return
    sites = {name: _site_metrics(name, reply.evaluated) for name, reply in answers.replies.items()}
    sent = {name: reply.evaluated.receipt for name, reply in answers.replies.items()}
    signed, _ = _receipts(sent, job.training.rounds, folder, purpose="metrics")
    metrics = Metrics(epsilon=job.metrics.epsilon, sites=sites)
    folder.save_metrics(metrics, signed)
    log.info("metrics: accuracy %.4f on the sites' own examples", metrics.mean)


def _site_metrics(name: str, evaluated: pb.Evaluated) -> SiteMetrics:
    try:
        return SiteMetrics(right=evaluated.right, examples=evaluated.examples)
    except ValueError as error:
        raise ProtocolError(f"{name} sent metrics that cannot be: {error}") from error


def _check_joined(joined: Exchange, manifest: Manifest) -> None:
    for name, reply in joined.replies.items():
        if reply.joined.manifest_digest != manifest.digest:
            raise ProtocolError(f"{name} joined another manifest than the one sent")


def _updates(answers: Exchange, number: int, layout: AdapterLayout) -> dict[str, NDArray[np.float32]]:
    updates = {}
    for name, reply in answers.replies.items():
        if reply.trained.round != number:
            raise ProtocolError(f"{name} answered round {reply.trained.round}, not round {number}")
        updates[name] = from_bytes(reply.trained.update, size=layout.update_size)
    return updates


def _receipts(
    sent: Mapping[str, pb.Receipt], number: int, folder: RunFolder, *, purpose: Purpose = "training"
) -> tuple[dict[str, SignedReceipt], dict[str, Receipt]]:
    """What each site signed, and what that says. Raises ProtocolError where it is about something else."""
    keys, digest = folder.public_keys, folder.manifest.digest.hex()
    signed, read = {}, {}
    for name, kept in sent.items():
        signed[name] = SignedReceipt(content=kept.content, signature=kept.signature)
        receipt = read[name] = signed[name].read(keys[name])
        what = (receipt.site, receipt.manifest, receipt.round, receipt.purpose)
        if what != (name, digest, number, purpose):
            raise ProtocolError(
                f"{name} sent a receipt for something else than the {purpose} of round {number} of this run"
            )
    return signed, read
