"""What correlated noise goes with, and what is refused by name when a job is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.training.training import learning_rate
from privacy.errors import JobError
from protocol.job.strategy import find_strategy, listed_strategies
from tests import tiny

PLAIN: dict[str, Any] = {
    "strategy": {"name": "ffa"},
    "privacy": {"noise_correlation": "banded", "bands": 2},
}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"privacy": {"noise_correlation": "banded"}}, "privacy.bands"),
        ({"privacy": {"noise_correlation": "auto", "bands": 2}}, "privacy.bands"),
        ({"privacy": {"bands": 2}}, "privacy.bands"),
        ({"privacy": PLAIN["privacy"] | {"bands": 65}}, "privacy.bands"),
        (
            {"privacy": PLAIN["privacy"] | {"unit": "site", "mechanism": "skellam"}},
            "privacy.unit: .* has no share that takes theirs back",
        ),
        (
            {"privacy": PLAIN["privacy"] | {"unit": "site", "noise": "central"}},
            "privacy.unit: .* with other survivors",
        ),
        (
            {"privacy": PLAIN["privacy"] | {"mechanism": "laplace"}},
            "privacy.mechanism: .* if it is Gaussian",
        ),
        ({"privacy": PLAIN["privacy"] | {"mechanism": "none"}}, "privacy.mechanism"),
        ({"strategy": {"name": "fedsvd"}}, "strategy.name: .* the adapter's basis turns"),
        ({"strategy": {"name": "ffa", "server": {"optimizer": "fedavgm"}}}, "strategy.server"),
        ({"training": {"optimizer": "adam", "learning_rate": 0.01}}, "training.optimizer"),
        ({"training": {"proximal": 0.1}}, "training.proximal"),
        ({"training": {"update_norm": 1.0}}, "training.update_norm"),
        ({"training": {"personal_steps": 2}, "metrics": {"epsilon": 1.0}}, "training.personal_steps"),
        ({"compression": {"kind": "random"}}, "compression.kind: .* what waits at a site"),
    ],
)
def test_what_would_keep_noise_from_being_taken_back_is_refused(
    tiny_folder: Path, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(JobError, match=key):
        tiny.job(tiny_folder, **PLAIN | changes)


@pytest.mark.parametrize(
    "name", [one for one in listed_strategies() if not find_strategy(one).correlates()]
)
def test_each_rule_that_does_not_declare_it_is_refused(tiny_folder: Path, name: str) -> None:
    with pytest.raises(JobError, match=r"strategy\.name"):
        tiny.job(tiny_folder, **PLAIN | {"strategy": {"name": name}, "federation": {"sites": 9}})


@pytest.mark.parametrize("name", [one for one in listed_strategies() if find_strategy(one).correlates()])
@pytest.mark.parametrize("privacy", [PLAIN["privacy"], {"noise_correlation": "auto"}])
def test_each_rule_that_declares_it_goes_with_it(
    tiny_folder: Path, name: str, privacy: dict[str, Any]
) -> None:
    job = tiny.job(tiny_folder, privacy=privacy, strategy={"name": name})
    assert job.privacy.correlated


@pytest.mark.parametrize("decay", ["none", "linear"])
def test_steps_weigh_as_their_learning_rates(tiny_folder: Path, decay: str) -> None:
    training = tiny.job(tiny_folder, training={"decay": decay}).training
    rates = [learning_rate(training, number, step) for number in (1, 2, 3) for step in (0, 1)]
    assert training.step_weights(6) == pytest.approx(np.array(rates) / training.learning_rate)
