"""Sites that train together compute what they keep in batches that they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.data.joint_examples import JointExamples
from tasks.data.shapes import Shapes
from tasks.model.adapted_model import AdaptedModel
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tasks.model.joint_activations import JointActivations
from tests.models import CASES

CASE = CASES["bert-qv-head"]
# Three sites of one to four texts, one of them blank.
SITES = ((3, 9, 5), (7, 0, 4, 6), (8,))
SHAPES = Shapes.of_one_height(4, sizes=(8, 16))


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> tuple[FrozenPrefix, list[tuple[int, int]]]:
    """A model's frozen layers, and the shape of each batch that goes through them."""
    adapted: AdaptedModel = CASE.adapted(layers=3, adapter={"layers_to_transform": [2]})
    adapted.peft.eval()
    found, shapes = FrozenPrefix(adapted), []
    compute = found.compute

    def noted(batch):
        shapes.append((len(batch), batch.size))
        return compute(batch)

    monkeypatch.setattr(found, "compute", noted)
    return found, shapes


def made(prefix: FrozenPrefix) -> tuple[JointExamples, list[Activations], JointActivations]:
    examples = JointExamples([CASE.examples(sizes) for sizes in SITES])
    stores = [Activations(prefix, part) for part in examples.parts]
    return examples, stores, JointActivations(examples, stores)


def rows(stores: list[Activations], examples: JointExamples) -> list[torch.Tensor]:
    """What is kept of each text, [size, width]."""
    found = []
    for store, part in zip(stores, examples.parts, strict=True):
        for index in part.without_blanks(np.arange(len(part))):
            batch = part.batch(np.array([index]), size=16)
            found.append(store.fetch(batch, rows=1)[0, : part.sizes[index]])
    return found


def test_each_owner_has_what_it_computes_alone_in_fewer_batches(prefix) -> None:
    found, shapes = prefix
    examples, stores, joint = made(found)
    alone = [Activations(found, part) for part in examples.parts]
    for store, part in zip(alone, examples.parts, strict=True):
        store.fill(part.without_blanks(np.arange(len(part))), SHAPES)
    apart = len(shapes)
    joint.fill(examples.without_blanks(np.arange(len(examples))), SHAPES)
    assert apart == 4  # of a site's 2 and 1, 3, and 1 texts of the two widths, three to a batch
    assert shapes[apart:] == [(4, 8), (4, 8), (4, 16)]
    for one, other in zip(rows(stores, examples), rows(alone, examples), strict=True):
        assert torch.equal(one, other)
    assert len(shapes) == apart + 3  # all were kept


def test_no_text_is_computed_twice_and_blank_rows_are_of_use(prefix) -> None:
    found, shapes = prefix
    _, stores, joint = made(found)
    joint.fill(np.array([0, 3]), SHAPES)  # the first texts of two sites; the third fills the batch up
    assert shapes == [(4, 8)]
    assert [list(store.unknown(beside=np.array([], np.int64))) for store in stores[:2]] == [[1], [2, 3]]
    joint.fill(np.array([0, 2, 3]), SHAPES)
    assert shapes == [(4, 8)]
    joint.fill(np.array([0, 1, 2, 3]), SHAPES)
    assert shapes == [(4, 8), (4, 16)]


def test_another_shape_begins_anew(prefix) -> None:
    found, shapes = prefix
    examples, _, joint = made(found)
    everyone = examples.without_blanks(np.arange(len(examples)))
    joint.fill(everyone, SHAPES)
    once = len(shapes)
    joint.fill(everyone, Shapes.of_one_height(8, sizes=(16,)))
    assert shapes[once:] == [(8, 16)]


def test_a_text_that_the_model_fails_on_is_its_owners_alone(prefix, monkeypatch) -> None:
    found, _ = prefix
    examples, stores, joint = made(found)
    compute, poison = found.compute, int(examples.parts[1].tokens[0])

    def fails(batch):
        firsts = batch.inputs["input_ids"][: len(batch.indices), 0]
        if bool((firsts == poison).any()) and 7 in batch.inputs["attention_mask"].sum(1).tolist():
            raise RuntimeError("a text")
        return compute(batch)

    monkeypatch.setattr(found, "compute", fails)
    joint.fill(examples.without_blanks(np.arange(len(examples))), SHAPES)
    kept = [
        store.missing(np.arange(len(sizes)), SHAPES) for store, sizes in zip(stores, SITES, strict=True)
    ]
    assert [list(lacking) for lacking in kept] == [[], [0], []]
