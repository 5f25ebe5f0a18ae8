"""A model that fails on some texts, and not on made-up ones: whether it does must not be an answer.

Models of transformers raise on what they do not expect: on texts with unequal numbers of end marks, on
numbers that are not finite. Here a model does so for one word, before or above its lowest adapter, and a
site that has a text with that word must answer as one that has none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import client.agent.site_host
from privacy.errors import PrivacyUnitError
from simulation.simulated_federation import World
from tests import tiny
from tests.adversary.neighbours import POISON, ROWS, largest_move
from tests.adversary.test_neighbours import Bench, check_alike, kinds, poisoned

WORD = 5 + tiny.WORDS.index(POISON)
EVERYBODY = {"training": {"batch_size": ROWS, "physical_batch_size": ROWS}, "metrics": {"epsilon": 1.0}}


def at_the_input(model: torch.nn.Module, error: type[Exception]) -> None:
    """Fails on a token."""

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if (kwargs["input_ids"] == WORD).any():
            raise error("a token that this model does not expect")

    model.register_forward_pre_hook(look, with_kwargs=True)


def in_the_last_layer(model: torch.nn.Module, error: type[Exception]) -> None:
    """Fails on what is not finite, which the word's embedding is."""

    def look(_module: Any, _args: Any, output: Any) -> None:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        if not torch.isfinite(hidden).all():
            raise error("numbers that this layer does not expect")

    model.bert.encoder.layer[-1].register_forward_hook(look)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("failing")
        tiny.write_model(folder / "model", fillers=3000)
        yield Bench(folder, monkeypatch)


@pytest.fixture(scope="module")
def model(bench: Bench) -> Path:
    return poisoned(bench.folder / "poisoned", bench.folder / "model")


def fail(monkeypatch: pytest.MonkeyPatch, how: Callable[..., None], error: type[Exception]) -> None:
    load = client.agent.site_host.load_base_model

    def failing(*arguments: Any, **options: Any) -> Any:
        base = load(*arguments, **options)
        how(base.model, error)
        return base

    monkeypatch.setattr(client.agent.site_host, "load_base_model", failing)


@pytest.mark.exhaustive(but=1)
@pytest.mark.parametrize("error", [ValueError, IndexError, PrivacyUnitError])
@pytest.mark.parametrize("how", [at_the_input, in_the_last_layer])
@pytest.mark.parametrize("alone", [False, True], ids=["in batches", "each alone"])
def test_a_text_that_a_model_fails_on_does_not_show(
    bench: Bench,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[..., None],
    error: type[Exception],
    alone: bool,
) -> None:
    fail(monkeypatch, how, error)
    training = {**EVERYBODY["training"], **({"physical_batch_size": 1} if alone else {})}
    world = World(bench.job(model, **{**EVERYBODY, "training": training}))
    manifest, models = world.manifest("run"), {str(model): str(model)}
    plain, poison = [
        bench.alone(world, manifest, example, adapter=world.initial_adapter, models=models)
        for example in ("plain", "poison")
    ]
    assert kinds(plain) == ["joined", "trained", "trained", "refused", "evaluated"]
    check_alike(plain, poison, bound=largest_move(world.job))
