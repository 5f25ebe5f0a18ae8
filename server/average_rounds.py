"""What the coordinator keeps beside a run's last adapter: an average of those released, shrunk if asked."""

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
from server.known_noise import noise_of_average
from strategies.shrinkage import shrink_change

log = logging.getLogger("confide.rounds")


def keep_average(folder: RunFolder, layout: AdapterLayout, evaluator: Evaluator) -> None:
    """Average the adapters of a run's rounds as ``training.average`` asks, if any round has finished.

    The average is shrunk as ``training.shrink`` asks; without an average it is the last adapter that is
    shrunk. Each of them has left the sites already, under their noise: what is computed of them is
    post-processing.
    """
    training, rounds = folder.manifest.job.training, len(folder.records())
    kind, shrink = training.average, training.shrink
    if (kind == "none" and shrink == "none") or not rounds:
        return
    kept = read_average(folder)
    if kept is not None and kept.last == rounds:
        return
    weights = average_weights(kind, rounds)
    adapter = average_rounds(folder, layout, kind=kind, rounds=rounds)
    if shrink != "none":
        noise = noise_of_average(folder, layout, weights)
        adapter = shrink_change(adapter, folder.load_adapter(0, layout), layout, noise=noise, kind=shrink)
    score = evaluator.score(adapter)
    about = AveragedAdapter(
        kind=kind,
        first=int(weights.nonzero()[0][0]) + 1,
        last=rounds,
        shrink=shrink,
        loss=score.loss,
        measures=dict(score.measures),
    )
    save_average(folder, layout, adapter, about)
    log.info("%s: held-out loss %.4f", about.words, about.loss)
