"""What a task's gradients are held to: each example's is the one that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from client.training.gradient_check import choose_gradients
from client.training.gradients import Found, PerExampleGradients, losses
from client.training.unit_check import check_privacy_unit
from tasks.data.examples import Examples
from tasks.model.adapted_model import AdaptedModel
from tests.client.training.test_per_example_gradients import RELATIVE, furthest
from tests.models import random_adapter


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The ``method`` that a model gets, what it ``found`` for made-up ``examples``, and a model beside."""

    method: PerExampleGradients
    reference: AdaptedModel
    examples: Examples
    found: Found

    @property
    def adapted(self) -> AdaptedModel:
        return self.method.adapted


def check_own_gradients(
    make: Callable[[], AdaptedModel], *, rows: int | None = None, within: float = RELATIVE
) -> Compared:
    """Compare gradients with those of a batch of one on a second model, and check the privacy unit."""
    method, reference = choose_gradients(make()), make()
    adapted = method.adapted
    check_privacy_unit(method, adapted.probe())
    for one in (adapted, reference):
        one.load(random_adapter(one))
    examples = adapted.probe()
    found = method.backward(examples.batch(np.arange(len(examples)), rows=rows), losses(adapted))
    assert furthest(found, reference, examples) < within
    return Compared(method=method, reference=reference, examples=examples, found=found)
