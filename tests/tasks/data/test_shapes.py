"""Batches whose shape depends on an example's own length and on the job, not on who else is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks.data.examples import Batch
from tasks.data.shapes import Shapes, ladder
from tests.models import make_examples

LENGTHS = (3, 9, 8, 7, 17, 24, 5, 2, 16)
EXAMPLES = make_examples(LENGTHS, labelled=True)
EVERYONE = np.arange(len(LENGTHS))


def shapes(*, longest: int = 24) -> Shapes:
    return Shapes.of(ladder(longest), batch_size=64, physical_batch_size=4)


def shape_by_example(batches: list[Batch]) -> dict[int, tuple[int, ...]]:
    return {
        int(index): tuple(batch.inputs["input_ids"].shape) for batch in batches for index in batch.indices
    }


@pytest.mark.parametrize(
    ("longest", "widths"),
    [
        (1, (8,)),
        (8, (8,)),
        (10, (8, 16)),
        (32, (8, 16, 24, 32)),
        (200, (8, 16, 24, 32, 48, 64, 96, 128, 192, 200)),
    ],
)
def test_widths_rise_to_the_longest(longest: int, widths: tuple[int, ...]) -> None:
    assert ladder(longest) == widths


def test_a_width_that_the_model_cannot_take_is_cut() -> None:
    assert ladder(10, possible=12) == (8, 12)


@pytest.mark.parametrize(
    ("batch_size", "physical", "rows", "heights"),
    [
        (256, 64, 32, (4, 8, 12, 16, 24, 32)),
        (512, 64, 64, (4, 8, 12, 16, 24, 32, 48, 64)),
        (64, 64, 8, (4, 8, 12, 16, 24, 32)),
        (16, 16, 8, (4, 8, 12, 16)),
        (256, 10, 10, (4, 8, 10)),
        (256, 3, 3, (3,)),
        (256, 2, 1, (1,)),
        (256, 1, 1, (1,)),
    ],
)
def test_rows_follow_from_the_job(
    batch_size: int, physical: int, rows: int, heights: tuple[int, ...]
) -> None:
    found = Shapes.of(ladder(32), batch_size=batch_size, physical_batch_size=physical)
    assert (found.rows, found.heights) == (rows, dict.fromkeys(ladder(32), heights))


def tall(**heights: tuple[int, ...]) -> Shapes:
    found = Shapes.of(ladder(24), batch_size=16, physical_batch_size=16)
    return replace(found, heights={**found.heights, **{int(size[1:]): h for size, h in heights.items()}})


def test_a_batch_is_as_low_as_its_examples_let_it_be() -> None:
    assert list(tall().split(0, 8)) == []
    assert list(tall().split(3, 8)) == [(3, 4)]
    assert list(tall().split(4, 8)) == [(4, 8)]
    assert list(tall().split(15, 8)) == [(15, 16)]
    assert list(tall().split(23, 8)) == [(15, 16), (8, 12)]


def test_sizes_have_heights_of_their_own() -> None:
    found = tall(_8=(8,), _24=(1,))
    assert list(found.split(9, 8)) == [(7, 8), (2, 8)]
    assert list(found.split(9, 16)) == [(9, 12)]
    assert list(found.split(2, 24)) == [(1, 1), (1, 1)]
    # Nobody compared heights at a size that no text of the job has.
    assert list(found.split(3, 100)) == [(3, 8)]


def test_what_is_expected_is_the_mean_over_poisson_samples() -> None:
    counts = np.random.default_rng(0).poisson(9.0, 20_000)
    rows = [sum(rows for _, rows in tall().split(count, 8)) for count in counts]
    # Five standard errors of the mean.
    assert tall().expected(9.0, 8)[1] == pytest.approx(np.mean(rows), abs=5 * np.std(rows) / 20_000**0.5)
    assert tall().expected(0.0, 8) == (0.0, 0.0)
    batches, rows_of_many = tall().expected(15_000.0, 8)
    assert (batches, rows_of_many) == (1000, 16_000)


def test_every_example_is_in_one_batch_with_a_blank_row() -> None:
    batches = list(shapes().batches(EXAMPLES, EVERYONE))
    assert sorted(index for batch in batches for index in batch.indices) == list(EVERYONE)
    for batch in batches:
        assert len(batch) == 4
        assert 1 <= len(batch.indices) <= 3


def test_a_shape_does_not_depend_on_who_else_is_drawn() -> None:
    everyone = shape_by_example(list(shapes().batches(EXAMPLES, EVERYONE)))
    for left_out in EVERYONE:
        rest = shape_by_example(list(shapes().batches(EXAMPLES, np.delete(EVERYONE, left_out))))
        assert rest == {index: shape for index, shape in everyone.items() if index != left_out}


def test_rows_hold_the_examples_and_blanks_are_short_padding() -> None:
    for batch in shapes().batches(EXAMPLES, EVERYONE[::-1]):
        for row, index in enumerate(batch.indices):
            start, end = EXAMPLES.offsets[index : index + 2]
            assert batch.inputs["attention_mask"][row].sum() == end - start
            assert (
                batch.inputs["input_ids"][row, : end - start].tolist()
                == EXAMPLES.tokens[start:end].tolist()
            )
            assert EXAMPLES.labels is not None
            assert batch.inputs["labels"][row] == EXAMPLES.labels[index]
        blank = slice(len(batch.indices), None)
        assert (batch.inputs["input_ids"][blank] == EXAMPLES.padding).all()
        assert (batch.inputs["attention_mask"][blank].sum(1) == 2).all()
        assert torch.equal(
            batch.inputs["attention_mask"],
            batch.inputs["attention_mask"].sort(dim=1, descending=True).values,
        )


def test_alone_has_no_blank_rows() -> None:
    found = replace(shapes(), heights={8: (1,), 16: (4,), 24: (1,)})
    heights = {
        (len(batch), batch.inputs["input_ids"].shape[1]) for batch in found.batches(EXAMPLES, EVERYONE)
    }
    assert heights == {(1, 8), (4, 16), (1, 24)}


def test_nobody_gives_no_batch() -> None:
    assert list(shapes().batches(EXAMPLES, EVERYONE[:0])) == []


def test_a_text_longer_than_the_job_allows_is_as_wide_as_it_is() -> None:
    (batch,) = shapes(longest=16).batches(EXAMPLES, np.array([5]))
    assert batch.inputs["input_ids"].shape == (4, 24)


def test_spare_examples_take_the_place_of_blank_rows() -> None:
    # At width 8 there are 0, 2, 3, 6 and 7, at width 16 are 1 and 8; three fit into a batch.
    found = shapes().filled_up(EXAMPLES, np.array([0, 1]), np.array([2, 3, 4, 5, 6, 8]))
    assert found.tolist() == [0, 1, 2, 3, 8]
    assert shapes().filled_up(EXAMPLES, EVERYONE[:0], EVERYONE).tolist() == []
    assert [len(batch.indices) for batch in shapes().batches(EXAMPLES, found)] == [3, 2]
