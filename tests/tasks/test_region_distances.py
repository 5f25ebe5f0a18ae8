"""Distances between the edges of regions, against closed forms and against MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from tasks.region_distances import DistanceTally, hausdorff


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    found = np.zeros(shape, bool)
    found[tuple(slice(*side) for side in sides)] = True
    return found


def test_two_places_are_as_far_apart_as_pythagoras_says() -> None:
    shape = (5, 6, 7)
    one, other = box(shape, (0, 1), (0, 1), (0, 1)), box(shape, (3, 4), (4, 5), (6, 7))
    assert hausdorff(one, other, spacing=(2.0, 1.0, 0.5)) == pytest.approx(np.sqrt(36 + 16 + 9))


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_a_plate_that_is_moved_is_as_far_as_it_was_moved(shift: int) -> None:
    shape = (30, 12, 12)
    one, other = (box(shape, (begin, begin + 10), (0, 12), (0, 12)) for begin in (5, 5 + shift))
    # A fifth and more of each edge is the face that moved: the percentile is in it.
    assert hausdorff(one, other, spacing=(1.5, 1.0, 1.0)) == pytest.approx(1.5 * shift)
    assert hausdorff(other, one, spacing=(1.5, 1.0, 1.0)) == pytest.approx(1.5 * shift)


def test_a_ball_in_a_ball_is_as_far_as_their_radii_differ() -> None:
    places = np.indices((61, 61)) - 30
    radius = np.sqrt((places**2).sum(0))
    found = hausdorff(radius <= 15, radius <= 25, spacing=(1.0, 1.0))
    # Each edge is within a pixel of its circle.
    assert found == pytest.approx(10, abs=1)


def test_one_stray_pixel_does_not_decide() -> None:
    one = box((64, 64), (10, 40), (10, 40))
    other = one.copy()
    other[60, 60] = True
    assert hausdorff(one, other, spacing=(1.0, 1.0)) == 0.0


def test_a_region_in_two_places_is_no_farther_than_its_own_edge() -> None:
    same = box((8, 8), (0, 8), (2, 5))
    assert hausdorff(same, same, spacing=(1.0, 1.0)) == 0.0


def test_what_is_not_there_is_a_diagonal_away_and_two_of_these_have_no_distance() -> None:
    nothing, something = np.zeros((4, 5), bool), box((4, 5), (1, 2), (1, 2))
    assert hausdorff(nothing, nothing, spacing=(1.0, 1.0)) is None
    for pair in ((nothing, something), (something, nothing)):
        assert hausdorff(*pair, spacing=(2.0, 1.0)) == pytest.approx(np.hypot(3 * 2.0, 4 * 1.0))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.0), (1.0, 1.5, 3.0)])
def test_it_is_what_monai_finds(spacing: tuple[float, ...]) -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        one, other = random.random((2, *[9] * len(spacing))) < 0.3
        theirs = compute_hausdorff_distance(
            torch.tensor(one[None, None]).float(),
            torch.tensor(other[None, None]).float(),
            include_background=True,
            percentile=95,
            spacing=list(spacing),
        )
        assert hausdorff(one, other, spacing=spacing) == pytest.approx(theirs.item(), rel=1e-5)


def test_distances_are_by_label_over_the_cases_that_have_it() -> None:
    found = DistanceTally(["around", "a", "b", "c"], spacing=(1.0, 1.0))
    mask = np.zeros((4, 5), np.uint8)
    mask[0, 0] = 1
    for columns in ((0,), (2,), ()):
        answer = np.zeros((4, 5), np.uint8)
        answer[0, columns] = 1
        found.add(answer, mask)
    mask[3, 4] = 2
    found.add(mask, mask)
    told = found.result()
    assert told.keys() == {"a", "b"}
    a = told["a"]
    assert (a.cases, a.missed, a.median, a.worst) == (4, 1, 1.0, 5.0)
    assert a.mean == pytest.approx((0 + 2 + 5 + 0) / 4)
    assert (told["b"].cases, told["b"].mean) == (1, 0.0)
