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
    ("batch_size", "physical", "rows"),
    [(256, 64, 32), (512, 64, 64), (64, 64, 8), (256, 16, 16), (256, 3, 3), (256, 2, 1), (256, 1, 1)],
)
def test_rows_follow_from_the_job(batch_size: int, physical: int, rows: int) -> None:
    found = Shapes.of(ladder(32), batch_size=batch_size, physical_batch_size=physical)
    assert found.rows == rows


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
    found = replace(shapes(), alone=frozenset({8, 24}))
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
