"""The round loop: join, train, average, evaluate, write; again until done."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from privacy.errors import BudgetError, ProtocolError, RunError
from privacy.receipt import Receipt, SignedReceipt
from protocol.confide_pb2 import Join, Request, Train
from protocol.layout import AdapterLayout
from protocol.manifest import MANIFEST_PURPOSE, Manifest
from protocol.vector import from_bytes, to_bytes
from server.evaluation import Evaluator
from server.exchange import Exchange, exchange
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
    interrupted rounds count. Raises SiteError, ProtocolError or RunError.
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
        signed, receipts = _receipts(answers, number, folder)
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
    answers: Exchange, number: int, folder: RunFolder
) -> tuple[dict[str, SignedReceipt], dict[str, Receipt]]:
    """What each site signed, and what that says. Raises ProtocolError where it is not about this round."""
    keys, digest = folder.public_keys, folder.manifest.digest.hex()
    signed, read = {}, {}
    for name, reply in answers.replies.items():
        kept = reply.trained.receipt
        signed[name] = SignedReceipt(content=kept.content, signature=kept.signature)
        receipt = read[name] = signed[name].read(keys[name])
        if (receipt.site, receipt.manifest, receipt.round) != (name, digest, number):
            raise ProtocolError(f"{name} sent a receipt for something else than round {number} of this run")
    return signed, read
