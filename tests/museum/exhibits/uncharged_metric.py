"""Metrics that are told and not charged."""

from __future__ import annotations

from pathlib import Path

from privacy.errors import AuditError
from privacy.mechanisms.counting import ONE
from runs.metrics import Metrics, SiteMetrics
from runs.run_audit import audit_run
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.server.scripted import SITES, ScriptedPost, go, make_folder, run_job


def show(place: Path) -> Shown:
    folder = make_folder(place / "run", run_job(), cohort=len(SITES))
    go(folder, ScriptedPost(folder))
    right = audit_run(folder)
    told = {site: SiteMetrics(right=71 * ONE, examples=80) for site in folder.public_keys}
    (folder.path / "metrics.json").write_bytes(Metrics.told(1.0, told).content)
    refusal = ""
    try:
        audit_run(folder)
    except AuditError as error:
        refusal = str(error)
    return Shown(
        flagged="the manifest asks for none, and some were released" in refusal,
        control=right.metrics is not None,
        figures={"refusal": refusal, "mean": f"{71 / 80:.1%}".replace("%", " %")},
    )


EXHIBIT = Exhibit(
    title="A metric beside the budget",
    threads=(
        Thread(
            name="FLIP#833",
            url="https://github.com/londonaicentre/FLIP/pull/833",
            note='which is wired into "training rounds only, evaluation untouched"',
        ),
    ),
    shipped=(
        "Updates are clipped and noised. The accuracy, the loss and the number of examples that a site "
        "reports beside them are exact, and each is a function of private examples. Most frameworks' "
        "privacy filters look at arrays alone."
    ),
    seen="an ε for the model, and next to it, from each site, 71 right of 80: {mean}.",
    says=(
        'the run\'s audit refuses a run folder in which they stand: "{refusal}". What is told past the '
        "folder no audit sees."
    ),
    here=(
        "metrics are released under Laplace noise that the ledger is charged for, or not at all "
        "([`counting.py`](../privacy/mechanisms/counting.py)); what a site may answer is a closed list "
        "of messages, and none of them has a free field."
    ),
    found_by="the run's audit",
    show=show,
)
