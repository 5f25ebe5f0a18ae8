"""SCAFFOLD: what is sent and kept is what the paper's option II makes of the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.control_variate import drift_of, own_variate, total_rate, uncorrected
from client.training.training import learning_rate
from protocol.job.job import TrainingSection

Vector = NDArray[np.float32]


class Sites:
    """Sites with a quadratic each, 0.5·aᵢ(x - bᵢ)², whose gradient steps are corrected as real ones are."""

    def __init__(self, curves: Vector, centres: Vector, training: TrainingSection) -> None:
        self.curves, self.centres, self.training = curves, centres, training
        self.own: list[Vector | None] = [None] * len(curves)
        self.mean = np.zeros(0, np.float32)
        self.x = np.zeros(centres.shape[1], np.float32)

    def round(self, number: int, *, correct: bool = True) -> tuple[Vector, Vector]:
        """The mean of the sites' updates, and of what they send; x moves by the latter."""
        updates, sent = [], []
        for site, (curve, centre) in enumerate(zip(self.curves, self.centres, strict=True)):
            drift = drift_of(self.mean, self.own[site], training=self.training, round_number=number)
            drift = drift if correct else None
            y = self.x.copy()
            for step in range(self.training.local_steps):
                rate = np.float32(learning_rate(self.training, number, step))
                y -= rate * (curve * (y - centre) + (0.0 if drift is None else drift))
            updates.append(y - self.x)
            found = uncorrected(updates[-1], drift, training=self.training, round_number=number)
            self.own[site] = own_variate(found, training=self.training, round_number=number)
            sent.append(found)
        self.mean = np.mean(sent, axis=0)
        self.x = self.x + self.mean
        return np.mean(updates, axis=0), self.mean


def training(**changes: object) -> TrainingSection:
    values = {
        "rounds": 60,
        "local_steps": 5,
        "batch_size": 1,
        "physical_batch_size": 1,
        "learning_rate": 0.1,
    }
    return TrainingSection.model_validate(values | changes)


@settings(max_examples=25, deadline=None)
@given(
    sites=st.integers(1, 5),
    size=st.integers(1, 4),
    decay=st.sampled_from(["none", "linear"]),
    seed=st.integers(0, 999),
)
def test_the_mean_of_what_is_sent_is_the_mean_of_the_updates(
    sites: int, size: int, decay: str, seed: int
) -> None:
    """As all corrections add up to nothing: c is the mean of the cᵢ."""
    random = np.random.default_rng(seed)
    curves = random.uniform(0.1, 2.0, (sites, 1)).astype(np.float32)
    centres = random.standard_normal((sites, size)).astype(np.float32)
    run = Sites(curves, centres, training(decay=decay))
    for number in (1, 2, 3):
        updates, sent = run.round(number)
        # Fifteen steps of float32 on numbers of a few units.
        np.testing.assert_allclose(updates, sent, atol=1e-5)


def test_the_next_variate_is_option_two_of_the_paper() -> None:
    """cᵢ - c + (x - y) / (K·η), from the update that the corrected steps made."""
    section, random = training(), np.random.default_rng(0)
    mean, own, update = random.standard_normal((3, 4)).astype(np.float32)
    rate = total_rate(section, 2)
    assert rate == pytest.approx(5 * 0.1)
    drift = drift_of(mean, own, training=section, round_number=2)
    assert drift is not None
    c = -mean / rate
    sent = uncorrected(update, drift, training=section, round_number=2)
    found = own_variate(sent, training=section, round_number=2)
    np.testing.assert_allclose(found, own - c - update / rate, rtol=1e-5, atol=1e-6)


def _distance(correct: bool, spoil: Callable[[Sites, int], None] = lambda *_: None) -> float:
    """How far two unlike sites end from the least of their sum, after a run."""
    curves = np.array([[0.2], [3.0]], np.float32)
    centres = np.array([[4.0], [-1.0]], np.float32)
    run = Sites(curves, centres, training(local_steps=10))
    for number in range(1, 61):
        run.round(number, correct=correct)
        spoil(run, number)
    best = (curves * centres).sum() / curves.sum()
    return float(abs(run.x[0] - best))


def test_sites_that_differ_find_the_common_optimum() -> None:
    """Uncorrected, many steps a round end at a weighted mean of the sites' own optima, 0.48 away."""
    assert _distance(correct=False) > 0.4
    assert _distance(correct=True) < 0.01


def test_what_a_site_loses_is_made_good_in_a_round() -> None:
    def lose(run: Sites, number: int) -> None:
        if number == 20:
            run.own[1] = None

    assert _distance(correct=True, spoil=lose) < 0.01


def test_nothing_is_corrected_without_both() -> None:
    some = np.ones(2, np.float32)
    assert drift_of(some, None, training=training(), round_number=2) is None
    assert drift_of(np.zeros(0, np.float32), some, training=training(), round_number=2) is None
    assert uncorrected(some, None, training=training(), round_number=2) is some
