"""Whole sites as canaries: sums show what a plan says and no more, and noise that is missing is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privacy.errors import AuditError, UserError
from privacy.mechanisms.skellam import SkellamMechanism
from runs.progress import Silence
from simulation.attack.provenance import Tracing
from simulation.attack.site_attack import SiteAudit, SumsSeen, attack_sums, audit_sites, draw_sites
from simulation.attack.site_canaries import SiteCanaries
from simulation.simulated_federation import World
from tests import tiny

SITES: dict[str, Any] = {
    "federation": {"sites": 8},
    "training": {"rounds": 6, "batch_size": 8},
    "privacy": {"unit": "site", "mechanism": "skellam", "epsilon": 8.0, "clipping_norm": 0.5},
    "aggregation": {"kind": "masks"},
}
CENTRAL = SITES | {"privacy": SITES["privacy"] | {"mechanism": "gaussian", "noise": "central"}}


def audited(folder: Path, **changes: Any) -> SiteAudit:
    return audit_sites(tiny.job(folder, **{**SITES, **changes}), seed=2)


def seen(folder: Path, changes: dict[str, Any]) -> SumsSeen:
    world = World(tiny.job(folder, **changes))
    found, _, _ = attack_sums(
        world, draw_sites(world, np.random.default_rng(2)), progress=Silence(), tracing=Tracing(2)
    )
    return found


def test_right_code_is_not_flagged(tiny_folder: Path) -> None:
    audit = audited(tiny_folder)
    assert (audit.sites, audit.present, audit.rounds) == (8, 4, 6)
    assert audit.verdict == "not refuted"
    # No seed makes the sites' shares of noise again: the lower bound may be anything, 0 too.
    assert 0.0 <= audit.lower <= audit.upper < 8.0
    audit.check()


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("changes", [SITES, CENTRAL], ids=["shares", "central"])
def test_sums_are_what_was_sent_and_the_planned_noise(tiny_folder: Path, changes: dict[str, Any]) -> None:
    found = seen(tiny_folder, changes)
    y, x = ((one / found.noise[:, None]).ravel() for one in (found.values, found.signal))
    slope, error = float(x @ y / (x @ x)), 1 / np.linalg.norm(x)
    assert abs(slope - 1) < 5 * error
    assert error < 0.5  # or the line above says nothing
    # Five standard errors, and a little for the grid's own rounding.
    assert abs(np.std(y - x) - 1) < 5 / np.sqrt(2 * len(y)) + 0.02
    assert found.cosines[found.present].mean() > found.cosines[~found.present].mean()


def test_a_quarter_of_the_noise_is_found(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what the plan asks for is charged, and a quarter of it is added."""
    whole = SkellamMechanism.noise

    def quiet(mechanism: SkellamMechanism, size: int, **given: Any) -> Any:
        return whole(mechanism, size, **given) // 4

    monkeypatch.setattr(SkellamMechanism, "noise", quiet)
    audit = audited(tiny_folder)
    assert audit.verdict == "refuted"
    assert audit.attackers[0].auc.value > 0.9
    with pytest.raises(AuditError, match="for a whole site, and the released sums show"):
        audit.check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy": {"epsilon": 3.0}, "aggregation": {"kind": "masks"}}, "attacks examples"),
        (
            {"strategy": {"name": "ffa"}, "compression": {"kind": "random", "share": 0.5}},
            "release a plain mean",
        ),
        ({"strategy": {"name": "rolora"}}, "trains the same numbers in each round"),
    ],
    ids=["examples", "compressed", "rolora"],
)
def test_a_job_whose_sums_say_nothing_of_sites_is_refused(
    tiny_folder: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        audited(tiny_folder, **changes)


def test_directions_are_a_sites_own_and_new_in_each_round() -> None:
    canaries = SiteCanaries(present={"a": True, "b": False}, size=10_000, norm=0.5, seed=3)
    directions = [canaries.direction(site, number) for site in "ab" for number in (1, 2)]
    cosines = np.array([[one @ other for one in directions] for other in directions])
    # Of two at random the cosine has a deviation of 0.01.
    np.testing.assert_allclose(cosines, np.eye(4), atol=0.05)
    assert np.linalg.norm(canaries.sent("a", 1)) == pytest.approx(2.0, rel=1e-5)
    assert not canaries.sent("b", 1).any()
