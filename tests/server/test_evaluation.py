"""A model that fails on a held-out example is told with the key to change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from privacy.errors import ModelError
from server.evaluation import Evaluator
from tasks.model.frozen_prefix import Activations, FrozenPrefix
from tests.models import CASES, random_adapter

BERT = CASES["bert-qv-head"]


@pytest.mark.parametrize("layers_to_transform", [[0], [1]], ids=["computed", "kept"])
@pytest.mark.parametrize("error", [KeyError("a token"), IndexError("index out of range in self")])
def test_a_model_that_fails_on_a_held_out_example_is_a_model_error(
    error: Exception, layers_to_transform: list[int]
) -> None:
    adapted = BERT.adapted(adapter={"layers_to_transform": layers_to_transform})
    examples = BERT.examples()
    evaluator = Evaluator(
        adapted, examples, Activations(FrozenPrefix(adapted), examples), labels=("a", "b", "c")
    )
    assert np.isfinite(evaluator.score(random_adapter(adapted)).loss)

    def fail(_module: nn.Module, _args: Any) -> None:
        raise error

    adapted.base.model.bert.encoder.layer[1].register_forward_pre_hook(fail)
    with pytest.raises(
        ModelError, match=r"model\.source='a tiny random model': the model fails on a held-out text"
    ):
        evaluator.score(random_adapter(adapted))
