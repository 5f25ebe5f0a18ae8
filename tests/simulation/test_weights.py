"""Public weights: a mean over them whoever adds up, and no bound that grows by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.custody.policy import BudgetSection, Policy, RulesSection
from client.local_round import Start, end_round
from privacy.accounting.central_site_plan import make_central_site_plan
from privacy.errors import JobError, PolicyError, ProtocolError
from protocol.job.manifest import Manifest
from runs.run_folder import RunFolder
from simulation.simulate import simulate
from simulation.simulated_federation import World
from tests import tiny

WEIGHTS = {"site-1": 100, "site-2": 50, "site-3": 1}
MASKED = {"aggregation": {"kind": "masks"}}


def weighted(folder: Path, **changes: Any) -> Any:
    sites = changes.pop("federation", {})
    return tiny.job(folder, federation={"sites": 3, "weights": WEIGHTS} | sites, **changes)


def manifest_of(folder: Path, **changes: Any) -> Manifest:
    job = weighted(folder, **changes)
    return Manifest(run="run", job=job, cohort=3, labels=(), model_digest="", layout_digest="")


def test_the_heaviest_weighs_one(tiny_folder: Path) -> None:
    manifest = manifest_of(tiny_folder)
    assert [manifest.weight(site) for site in sorted(WEIGHTS)] == [1.0, 0.5, 0.01]
    with pytest.raises(ProtocolError, match="expected a weight for 'site-4'"):
        manifest.weight("site-4")
    with pytest.raises(ProtocolError, match="for each of the run's 2 sites"):
        replace(manifest, cohort=2)


def session(manifest: Manifest, *, clipping_norm: float | None) -> Any:
    plan: Any = SimpleNamespace(hides_sites=False)
    if clipping_norm is not None:
        plan = make_central_site_plan(
            noisy=True, epsilon=1.0, delta=1e-5, clipping_norm=clipping_norm, releases=1
        )
    return SimpleNamespace(
        manifest=manifest, plan=plan, keeps=False, layout=SimpleNamespace(update_size=3, local_size=0)
    )


@settings(max_examples=50, deadline=None)
@given(
    update=st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3),
    bound=st.floats(1e-3, 1e3),
    site=st.sampled_from(sorted(WEIGHTS)),
)
def test_what_hides_a_site_is_made_for_the_heaviest(
    tiny_folder: Path, update: list[float], bound: float, site: str
) -> None:
    """A site adds at most its weight times the norm that noise is made for, which is at most that norm."""
    manifest, vector = manifest_of(tiny_folder), np.array(update, np.float32)
    start = Start(adapter=np.zeros(3, np.float32))
    sent = end_round(
        session(manifest, clipping_norm=bound), start, vector, site=site, round_number=1
    ).astype(np.float64)
    # Rounding of the clipped vector to float32, and of the product: 2^-23 each at most.
    assert np.linalg.norm(sent) <= manifest.weight(site) * bound * (1 + 2.0**-22)
    assert manifest.weight(site) <= 1.0
    free = end_round(session(manifest, clipping_norm=None), start, vector, site=site, round_number=1)
    expected = manifest.weight(site) * vector.astype(np.float64)
    np.testing.assert_allclose(free, expected, rtol=2.0**-22, atol=2.0**-149)  # float32's least number


@pytest.mark.parametrize("changes", [{}, MASKED], ids=["plain", "masked"])
def test_a_round_moves_by_the_weighted_mean(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = weighted(
        tiny_folder, **changes, strategy={"name": "ffa"}, training={"rounds": 1}, seeds={"noise": 5}
    )
    world = World(job)
    layout = world.adapted.layout
    updates: dict[str, np.ndarray] = {}

    def noted(session: Any, start: Any, trained: Any, *, site: str, round_number: int) -> Any:
        updates[site] = trained
        return end_round(session, start, trained, site=site, round_number=round_number)

    monkeypatch.setattr("client.site.end_round", noted)
    run = simulate(job, runs=tmp_path)
    moved = layout.change(world.initial_adapter, RunFolder.open(run.folder).load_adapter(1, layout))
    expected = sum(WEIGHTS[site] * updates[site].astype(np.float64) for site in WEIGHTS) / 151
    # Under masks a number is rounded to 2^-31 of 256; the adapter's own float32 are near 1.
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    plain = sum(update.astype(np.float64) for update in updates.values()) / 3
    assert np.abs(moved - plain).max() > 0.01


def test_weights_of_other_sites_are_refused_before_a_model_is_loaded(tiny_folder: Path) -> None:
    with pytest.raises(JobError, match=r"federation\.weights: .*site-3"):
        World(tiny.job(tiny_folder, federation={"sites": 3, "weights": {"site-1": 1, "site-2": 2}}))


def test_a_custodian_has_to_allow_them(tiny_folder: Path) -> None:
    manifest = manifest_of(tiny_folder)
    budget = BudgetSection(epsilon=10.0, delta=0.01)
    with pytest.raises(PolicyError, match=r"rules\.weights"):
        Policy(budget=budget).check(manifest, b"")
    Policy(budget=budget, rules=RulesSection(weights="allowed")).check(manifest, b"")
    unweighted = Manifest(
        run="run", job=tiny.job(tiny_folder), cohort=3, labels=(), model_digest="", layout_digest=""
    )
    Policy(budget=budget).check(unweighted, b"")


@pytest.mark.parametrize(
    ("weights", "refused"), [((50, 30, 20), False), ((51, 30, 20), True), ((10**9, 1, 1), True)]
)
def test_no_site_outweighs_the_sum_that_is_to_hide_it(
    tiny_folder: Path, weights: tuple[int, ...], *, refused: bool
) -> None:
    """With weights a job's author could have a sum of three that is one site's update, masks or not."""
    named = dict(zip(sorted(WEIGHTS), weights, strict=True))
    manifest = manifest_of(tiny_folder, **MASKED, federation={"weights": named, "min_sites": 3})
    budget = BudgetSection(epsilon=10.0, delta=0.01)
    for wanted in ("encrypted", "required"):
        rules = RulesSection(weights="allowed", secure_aggregation=wanted)
        if refused:
            with pytest.raises(PolicyError, match=r"no weight above those of 2 other sites together"):
                Policy(budget=budget, rules=rules).check(manifest, b"")
        else:
            Policy(budget=budget, rules=rules).check(manifest, b"")
    Policy(budget=budget, rules=RulesSection(weights="allowed")).check(manifest, b"")


@pytest.mark.parametrize("weights", [{}, {"site-1": 0}, {"site-1": 0.5}, {"site-1": True}])
def test_weights_are_counts(tiny_folder: Path, weights: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"federation\.weights"):
        tiny.job(tiny_folder, federation={"sites": 1, "weights": weights})
