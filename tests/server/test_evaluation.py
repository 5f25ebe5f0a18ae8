"""Evaluation at the coordinator: what a model's own code raises there is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy.errors import ModelError, RunError
from simulation.simulated_federation import World
from tests import tiny


def test_whatever_a_models_code_raises_is_said(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tiny.job(tiny_folder, adapter={"layers_to_transform": None}))
    evaluator = world.workplace.evaluator
    raised: list[Exception] = [AssertionError(), IndexError("row 9\nand more"), RunError("one of our own")]

    def fail(_batch: object) -> None:
        raise raised[0]

    monkeypatch.setattr(world.adapted, "forward", fail)
    for reason in ("AssertionError", "row 9"):
        with pytest.raises(ModelError, match=f"fails on held-out examples: {reason}; choose another model"):
            evaluator.score(world.initial_adapter)
        raised.pop(0)
    with pytest.raises(RunError, match="one of our own"):
        evaluator.score(world.initial_adapter)
