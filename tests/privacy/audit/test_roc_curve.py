"""The curve of an attacker's scores, by hand and against the rates that are told beside it."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.audit.roc import auc, roc_curve, tpr_at


@pytest.mark.parametrize(
    ("scores", "present", "expected"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], ((0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1))),
        ([1, 2, 3, 4], [1, 1, 0, 0], ((0, 0), (1, 0), (1, 1))),  # worse than guessing
        ([7, 7, 7, 7], [1, 0, 1, 0], ((0, 0), (1, 1))),  # all the same is one step
        ([2, 2, 1, 1], [1, 0, 1, 0], ((0, 0), (0.5, 0.5), (1, 1))),
        ([3, 2, 1], [1, 1, 1], ((0, 0), (0, 1))),
    ],
    ids=["crossing", "reversed", "ties", "two ties", "nobody out"],
)
def test_by_hand(scores: list[int], present: list[int], expected: tuple[tuple[float, float], ...]) -> None:
    found = roc_curve(np.array(scores, np.float64), np.array(present, bool))
    assert found == expected


def test_it_agrees_with_what_is_told_beside_it() -> None:
    generator = np.random.default_rng(1)
    present = generator.random(600) < 0.5
    scores = np.round(generator.standard_normal(600) + 1.5 * present, 1)  # with ties
    curve = np.array(roc_curve(scores, present))
    area = float(np.trapezoid(curve[:, 1], curve[:, 0]))
    assert area == pytest.approx(auc(scores, present, error=0.05).value, abs=1e-12)
    for fpr in (0.001, 0.01, 0.1):
        reached = max(y for x, y in curve if x <= fpr)
        assert reached == pytest.approx(tpr_at(scores, present, fpr=fpr, error=0.05).value, abs=1e-12)


def test_a_long_curve_keeps_its_ends_and_its_beginning() -> None:
    generator = np.random.default_rng(2)
    present = generator.random(20_000) < 0.5
    scores = generator.standard_normal(20_000) + present
    curve = roc_curve(scores, present)
    assert len(curve) <= 400
    assert (curve[0], curve[-1]) == ((0.0, 0.0), (1.0, 1.0))
    ranked = present[np.argsort(-scores)]
    for x, y in curve:
        false, hits = round(x * (~present).sum()), round(y * present.sum())
        assert ranked[: false + hits].sum() == hits  # a corner of the whole curve
    assert sum(x <= 0.001 for x, _ in curve) > 5  # far left nothing is left out
