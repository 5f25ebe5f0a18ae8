"""Finished runs of statistics with made-up counts, for what reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from privacy.accounting.sampled_plan import make_histogram_plan
from privacy.identity import Identity
from privacy.ledger.receipt import Receipt, sign_receipt
from privacy.mechanisms.counting import ONE
from protocol.job.manifest import Manifest
from runs.statistics_folder import StatisticsFolder
from server.statistics_round import statistics_manifest
from tests.server.runs import make_job

SITES = ("north", "south")
ASKED = {"epsilon": 2.0, "labels": True}


def counted_manifest(run: str) -> Manifest:
    return statistics_manifest(make_job(statistics=ASKED), run=run, sites=len(SITES))


def counted_receipt(manifest: Manifest, site: str, **changes: Any) -> Receipt:
    """What an honest site signs for its counts, changed as given; ``plan`` by its own fields."""
    plan = make_histogram_plan(histograms=1, epsilon=2.0, delta=manifest.job.privacy.delta)
    receipt = Receipt(
        site=site,
        run=manifest.run,
        manifest=manifest.digest.hex(),
        round=1,
        plan=replace(plan, **changes.pop("plan", {})),
        steps=1,
        taken=1,
        epsilon=plan.epsilon_after(1),
        budget=2.0,
        head="ab" * 32,
        purpose="statistics",
    )
    return replace(receipt, **changes)


def make_counted(path: Path, *, finished: bool = True) -> StatisticsFolder:
    """Two sites with 100 bad examples and 300 good ones together, before noise of nobody's."""
    folder = StatisticsFolder.create(path, manifest=counted_manifest(path.name))
    keys = {site: Identity.generate() for site in SITES}
    folder.keep_public_keys({site: key.public for site, key in keys.items()})
    if finished:
        receipts = {
            site: sign_receipt(key, counted_receipt(folder.manifest, site)) for site, key in keys.items()
        }
        folder.finish(np.array([100, 300], np.int64) * ONE, receipts)
    return folder
