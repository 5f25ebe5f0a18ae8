"""Learning rates by tensor: ``training.rates``, factors for those whose names a key is in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from privacy.errors import JobError
from protocol.plain_text import some

if TYPE_CHECKING:
    from protocol.job.job import Job
    from protocol.job.training_section import TrainingSection


def rate_factor(training: TrainingSection, name: str) -> float:
    """What a tensor's learning rate is over ``training.learning_rate``: 1 where no key names it.

    ``name`` is the tensor's in the layout. A key names it if the key's parts, between dots, follow one
    another in it. Raises JobError if two do.
    """
    found = [key for key in training.rates if f".{key}." in f".{name}."]
    if len(found) > 1:
        raise JobError(
            f"training.rates: {' and '.join(found[:2])} both name {name}: expected one key for a tensor"
        )
    return training.rates[found[0]] if found else 1.0


def check_rates(training: TrainingSection, trained: Iterable[str]) -> None:
    """Raises JobError for a key that names no ``trained`` tensor, and where two name one."""
    names = list(trained)
    for name in names:
        rate_factor(training, name)
    for key in training.rates:
        if not any(f".{key}." in f".{name}." for name in names):
            raise JobError(
                f'training.rates: "{key}" is in the name of no tensor that is trained: expected parts of '
                f"one of {some(sorted(names))}"
            )


def check_rates_fit(job: Job) -> None:
    """Raises ValueError for a job in which one learning rate stands for all tensors."""
    training = job.training
    if not training.rates:
        return
    if job.strategy.corrects:
        raise ValueError(
            f'training.rates: expected none with strategy.name="{job.strategy.name}", whose sites take '
            "what they sent over one learning rate for their mean gradient"
        )
    fastest = training.learning_rate * training.fastest
    if training.optimizer == "sgd" and fastest * training.proximal > 1.0:
        raise ValueError(
            "training.rates: expected learning_rate · factor · proximal <= 1, or a step goes past where "
            f"its round began, got {fastest:g} · {training.proximal:g}"
        )
