"""A whole attacked run: the pipeline is a run's own, and a mistake in it comes out as exit code 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.training import optimizer
from privacy.accounting.sampled_plan import SampledPlan
from privacy.errors import AuditError, UserError
from privacy.mechanisms.clipping import ClippedSum
from privacy.mechanisms.factored_clipping import clip_found
from privacy.mechanisms.factored_gradients import Factors
from privacy.mechanisms.mechanism import Mechanism
from privacy.mechanisms.rng import ChaCha20Source
from protocol.job.job_file import job_toml
from simulation import simulated_federation
from simulation.attack import empirical_audit
from simulation.attack.attack_bounds import find_bounds
from simulation.attack.attackable import rounds_add_up, steps_add_up
from simulation.attack.empirical_audit import EmpiricalAudit, audit_empirically
from simulation.attack.observed import Observed
from tests import tiny
from tests.confide.test_cli import call

FEW = {"rounds": 2, "local_steps": 2, "batch_size": 32}


def attacked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[EmpiricalAudit, tuple[Observed, ...]]:
    """An audit of the tiny job, and what the attackers saw."""
    seen = list[tuple[Observed, ...]]()
    whole = empirical_audit.observe

    def observe(*given: Any) -> tuple[Observed, ...]:
        seen.append(whole(*given))
        return seen[0]

    monkeypatch.setattr(empirical_audit, "observe", observe)
    job = tiny.job(folder, **{"training": FEW, **changes})
    return audit_empirically(job, canaries=60, seed=3), seen[0]


def check_linear(seen: Observed) -> None:
    """Values are the canaries' signal, and noise as wide as planned: each within five standard errors."""
    assert seen.signal is not None
    y, x = ((v / seen.noise[:, None]).ravel() for v in (seen.values, seen.signal))
    slope, error = float(x @ y / (x @ x)), 1 / np.linalg.norm(x)
    assert abs(slope - 1) < 5 * error
    assert error < 0.4  # or the line above says nothing
    assert abs(np.std(y - x) - 1) < 5 / np.sqrt(2 * len(y))


def test_what_is_seen_is_signal_and_the_planned_noise(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, seen = attacked(tiny_folder, monkeypatch)
    assert [one.attacker for one in seen] == ["site", "rounds", "adapter"]
    for one in seen[:2]:
        check_linear(one)
    assert audit.canaries == 60
    assert 7.9 < audit.upper <= 8.0
    assert 0.0 <= audit.lower <= audit.upper
    assert audit.verdict == "not refuted"
    assert len(audit.bounds) == 8
    assert audit.drawn_as_planned
    audit.check()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": {"kind": "masks"}, "strategy": {"name": "lora"}},
        {"strategy": {"name": "ffa"}, "federation": {"sites": 4, "cohort": 2}},
        {"training": FEW | {"optimizer": "adam", "learning_rate": 0.01}},
        {"privacy": {"mechanism": "laplace", "epsilon": 50.0}},
    ],
    ids=["masks", "cohorts", "adam", "laplace"],
)
def test_other_jobs_are_attacked_as_well(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    audit, seen = attacked(tiny_folder, monkeypatch, **changes)
    assert audit.verdict == "not refuted"
    for one in seen:
        if one.signal is not None:
            check_linear(one)
    hidden = changes.get("aggregation", {}).get("kind") == "masks"
    assert ("site" not in [one.attacker for one in seen]) == hidden
    adam = changes.get("training", FEW) is not FEW
    assert any(one.signal is not None for one in seen) != adam


def test_a_quarter_of_the_noise_ends_the_command(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Control: what the plan asks for is charged, and a quarter of it is added.

    The check before every run finds that too, so here there is none.
    """
    whole = Mechanism.noise

    def quiet(mechanism: Mechanism, size: int, **given: Any) -> Any:
        return whole(mechanism, size, **given) // 4

    monkeypatch.setattr(Mechanism, "noise", quiet)
    monkeypatch.setattr(simulated_federation, "SharedCheck", lambda: lambda _method, _examples: None)
    path = tmp_path / "job.toml"
    path.write_text(job_toml(tiny.job(tiny_folder, training=FEW)))
    assert call(monkeypatch, "audit", "empirical", path, "--canaries", "60", "--seed", "3", "--json") == 1
    output, errors = capfd.readouterr()
    told = json.loads(output.splitlines()[-1])
    assert told["verdict"] == "refuted"
    assert told["lower"] > told["upper"]
    assert told["confidence"] == 0.95
    assert "site-1 claims epsilon=" in errors
    assert "form 'gaussian'" in errors


def test_batches_in_turn_are_found(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: every step draws the first of the examples that the last ones did not."""
    drawn: dict[int, int] = {}

    def in_turn(self: ChaCha20Source, population: int, *, rate: float) -> NDArray[np.int64]:
        first, size = drawn.get(population, 0), round(rate * population)
        drawn[population] = first + size
        return np.sort(np.arange(first, first + size) % population)

    monkeypatch.setattr(ChaCha20Source, "poisson_sample", in_turn)
    audit, _ = attacked(tiny_folder, monkeypatch)
    assert audit.lower <= audit.upper
    assert audit.verdict == "refuted"
    with pytest.raises(AuditError, match="its canaries were not drawn so"):
        audit.check()


@pytest.mark.exhaustive
def test_clipping_that_does_nothing_is_found(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a canary's gradient is four clipping norms long, and so is what it adds.

    The check before every run finds that too, so here there is none.
    """

    def loose(
        gradients: Sequence[torch.Tensor | Factors], *, bound: float, norm: int, steps: float
    ) -> ClippedSum:
        found = clip_found(gradients, bound=4 * bound, norm=norm, steps=steps)
        return replace(found, tensors=tuple(4 * tensor for tensor in found.tensors), bound=bound)

    monkeypatch.setattr(optimizer, "clip_found", loose)
    monkeypatch.setattr(simulated_federation, "SharedCheck", lambda: lambda _method, _examples: None)
    audit, _ = attacked(tiny_folder, monkeypatch)
    assert audit.verdict == "refuted"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": {"name": "rolora"}}, 'strategy.name: expected .* got "rolora"'),
        ({"strategy": {"name": "flora"}, "adapter": {"ranks": [1, 2, 2]}}, "adapter.ranks: expected none"),
        ({"strategy": {"name": "fedask"}}, 'strategy.name: expected .* as it is, got "fedask"'),
        ({"strategy": {"name": "fedsa"}}, "strategy.keep_local: expected"),
        ({"strategy": {"name": "ffa", "keep_local": "head"}}, "strategy.keep_local: expected"),
    ],
    ids=["rolora", "ranks", "fedask", "fedsa", "head"],
)
def test_a_job_whose_numbers_are_not_trained_everywhere_is_refused(
    tiny_folder: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        audit_empirically(tiny.job(tiny_folder, **changes))


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize(
    ("changes", "adds_up"),
    [
        ({"strategy": {"name": "ffa"}}, True),
        ({"strategy": {"name": "flora"}}, False),
        ({"strategy": {"name": "ffa", "server": {"optimizer": "fedadam"}}}, False),
        ({"federation": {"weights": {"site-1": 9, "site-2": 1, "site-3": 1}}}, False),
        ({"training": FEW | {"update_norm": 0.1}}, False),
    ],
    ids=["mean", "flora", "optimizer", "weights", "norm"],
)
def test_how_much_a_draw_adds_is_known_for_plain_means_alone(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], adds_up: bool
) -> None:
    _, seen = attacked(tiny_folder, monkeypatch, **changes)
    (rounds,) = (one for one in seen if one.attacker == "rounds")
    assert (rounds.signal is not None) == adds_up


@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, {"unit": "site", "mechanism": "skellam"}])
def test_a_job_without_a_claim_for_examples_is_refused(tiny_folder: Path, privacy: dict[str, Any]) -> None:
    job = tiny.job(tiny_folder, privacy=privacy, aggregation={"kind": "masks"})
    with pytest.raises(UserError, match="canaries are examples"):
        audit_empirically(job)


@pytest.mark.statistics
def test_bounds_are_for_the_steps_that_the_claim_is_for(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan has room for steps that are not attacked: with these, right code would seem refuted."""
    plans, whole = list[SampledPlan](), find_bounds

    def noted(*given: Any, **how: Any) -> Any:
        plans.append(given[2])
        return whole(*given, **how)

    monkeypatch.setattr(empirical_audit, "find_bounds", noted)
    audit, seen = attacked(
        tiny_folder, monkeypatch, training=FEW | {"personal_steps": 3}, metrics={"epsilon": 1.0}
    )
    assert plans[0].steps == 4
    assert plans[0].epsilon == pytest.approx(audit.upper)
    assert seen[0].noise[0] == seen[0].noise[1]  # of two steps each: the three are in neither
    check_linear(seen[0])


@pytest.mark.parametrize(
    ("changes", "steps", "rounds"),
    [
        ({}, True, True),
        ({"training": {"optimizer": "adam"}}, False, False),
        ({"training": {"proximal": 0.1, "learning_rate": 0.1}}, False, False),
        ({"strategy": {"name": "scaffold"}}, False, False),
        ({"training": {"update_norm": 1.0}}, True, False),
        ({"strategy": {"name": "median", "malicious": 1}}, True, False),
        ({"strategy": {"name": "ffa", "server": {"optimizer": "fedadam"}}}, True, False),
        ({"federation": {"weights": {"site-1": 8, "site-2": 1, "site-3": 1}}}, True, False),
    ],
    ids=["plain", "adam", "proximal", "scaffold", "norm", "median", "server", "weights"],
)
def test_gaussian_bounds_are_for_plain_sums_alone(
    tiny_folder: Path, changes: dict[str, Any], *, steps: bool, rounds: bool
) -> None:
    job = tiny.job(tiny_folder, **changes)
    assert (steps_add_up(job), rounds_add_up(job)) == (steps, rounds)
