"""Replacing an example charged like leaving it out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privacy.accounting.central_site_plan import CentralSitePlan
from privacy.accounting.sampled_plan import make_sampled_plan
from privacy.audit.gaussian_pair import pair_bound
from privacy.errors import LedgerError
from privacy.ledger.ledger_audit import audit_ledger
from tests.museum.exhibit import Exhibit, Shown, Thread
from tests.museum.looks import DELTA, ERROR, coins
from tests.privacy.ledgers import CENTRAL_PLAN, DATA, charge, open_ledger, unflushed


def shown_of(*, apart: float, multiplier: float) -> float:
    """ε that one release shows of canaries which lie so many clipping norms apart, in and out."""
    present = coins(1000)
    scores = apart * present + multiplier * np.random.default_rng(3).standard_normal(len(present))
    return pair_bound(scores, present, delta=DELTA, error=ERROR)


def ledger_refuses(home: Path, *, undoubled: bool) -> bool:
    """Whether the ledger's audit refuses a plan for sites, charged to examples, doubled or not."""
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch, unflushed():
        if undoubled:
            patch.setattr(CentralSitePlan, "as_charged", lambda self: self)
        ledger = open_ledger(home)
        ledger.reserve(charge(ledger.register(DATA["base"]), plan=CENTRAL_PLAN))
        ledger.close()
    try:
        audit_ledger(home / "ledger.db")
    except LedgerError as error:
        return "its cost is too low" in str(error)
    return False


def show(place: Path) -> Shown:
    plan = make_sampled_plan(
        mechanism="gaussian",
        epsilon=3.0,
        delta=DELTA,
        clipping_norm=1.0,
        expected_batch_size=1,
        examples=1,
        steps=1,
    )
    multiplier = plan.mechanism.multiplier
    replaced, left_out = (shown_of(apart=apart, multiplier=multiplier) for apart in (2.0, 1.0))
    return Shown(
        flagged=replaced > plan.epsilon and ledger_refuses(place / "wrong", undoubled=True),
        control=left_out > plan.epsilon or ledger_refuses(place / "right", undoubled=False),
        figures={"claimed": f"{plan.epsilon:.2f}", "shown": f"{replaced:.1f}"},
    )


EXHIBIT = Exhibit(
    title="A sensitivity of C where it is 2C",
    threads=(
        Thread(
            name="differential-privacy#378", url="https://github.com/google/differential-privacy/issues/378"
        ),
        Thread(name="its fix, #464", url="https://github.com/google/differential-privacy/pull/464"),
    ),
    shipped=(
        "dp-accounting's Gaussian event has its noise over the bound C of one vector. Where neighbours "
        "replace one example by another, the sum may move by 2C, and the Rényi accountant took C all "
        "the same."
    ),
    seen="ε = {claimed} for replacing an example.",
    says=(
        "one release, attacked with canaries at C and at −C, shows ε ≥ {shown}. The ledger's audit "
        "refuses a plan for whole sites that is charged to their examples without the factor two: its "
        "cost is too low."
    ),
    here=(
        "neighbours are an example and its blank, in every plan and every receipt. Where one example "
        "can move a whole update, `as_charged` doubles the sensitivity "
        "([`central_site_plan.py`](../privacy/accounting/central_site_plan.py)), and a second "
        "accountant that shares no code recomputes it "
        "([`ledger_audit.py`](../privacy/ledger/ledger_audit.py))."
    ),
    found_by="the one-run audit's form for one release, the ledger's audit",
    show=show,
)
