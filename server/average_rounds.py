"""What the coordinator keeps beside a run's last adapter: a scored average of those that were released."""

from __future__ import annotations

import logging

from protocol.job.layout import AdapterLayout
from runs.averaged_adapter import (
    AveragedAdapter,
    average_rounds,
    average_weights,
    read_average,
    save_average,
)
from runs.run_folder import RunFolder
from server.evaluation import Evaluator

log = logging.getLogger("confide.rounds")


def keep_average(folder: RunFolder, layout: AdapterLayout, evaluator: Evaluator) -> None:
    """Average the adapters of a run's rounds as ``training.average`` asks, if any round has finished.

    Each of them has left the sites already, under their noise: what is computed of them is post-processing.
    """
    kind, rounds = folder.manifest.job.training.average, len(folder.records())
    if kind == "none" or not rounds:
        return
    kept = read_average(folder)
    if kept is not None and kept.last == rounds:
        return
    adapter = average_rounds(folder, layout, kind=kind, rounds=rounds)
    score = evaluator.score(adapter)
    about = AveragedAdapter(
        kind=kind,
        first=int(average_weights(kind, rounds).nonzero()[0][0]) + 1,
        last=rounds,
        loss=score.loss,
        measures=dict(score.measures),
    )
    save_average(folder, layout, adapter, about)
    log.info("%s: held-out loss %.4f", about.words, about.loss)
