"""What a first adapter that was made elsewhere goes with, and what is kept beside the last one does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.job.job import Job

_PACKAGE = "package:"


def check_warm_start(job: Job) -> None:
    """Raises ValueError that names the key to change, for a job that needs pairs of its own to begin."""
    if job.training.warm_start is None:
        return
    if job.adapter.changes_base:
        raise ValueError(
            f'adapter.init: expected "orthonormal" with training.warm_start, got "{job.adapter.init}", '
            "whose pairs begin as a part of the base model's weights"
        )
    if job.model.features is not None:
        raise ValueError("model.features: expected none with training.warm_start, whose head is for others")
    if job.adapter.ranks is not None:
        raise ValueError(
            "adapter.ranks: expected none with training.warm_start: a site of a lower rank would get some "
            "directions of a pair that has them in no order"
        )
    if any(name.partition(".")[0] == "experts" for name in job.adapter.target_modules):
        raise ValueError(
            "adapter.target_modules: expected no experts with training.warm_start: a PEFT folder has the "
            "pairs of all experts in one, under names of its own"
        )
    if job.strategy.cored:
        raise ValueError(
            f'strategy.name: "{job.strategy.name}" trains a core between A and B, which no PEFT folder '
            'has, and so goes with no training.warm_start: use "ffa"'
        )


def check_features(job: Job) -> None:
    """Raises ValueError for public data that are the job's, whose means would leave without noise."""
    place = job.model.features
    if place is None:
        return
    sources = [job.data.source, *(one.source for one in job.data.mix)]
    if job.data.validation is not None:
        sources.append(job.data.validation)
    if any(_holds(place, source) or _holds(source, place) for source in sources):
        raise ValueError(
            f'model.features: expected public data, got "{place}", which is among the job\'s data, or they '
            "in it: what is measured there is published without noise"
        )


def _holds(outer: str, inner: str) -> bool:
    """Whether one path is another, or a folder around it; so of those in packages, among themselves."""
    packed = outer.startswith(_PACKAGE), inner.startswith(_PACKAGE)
    if any(packed):
        return all(packed) and PurePosixPath(inner).is_relative_to(outer)
    return Path(os.path.realpath(inner)).is_relative_to(os.path.realpath(outer))


def check_average(job: Job) -> None:
    """Raises ValueError for an average of adapters whose products would be something else."""
    if job.training.average != "none" and not job.strategy.averages():
        raise ValueError(
            f'training.average: expected "none" with strategy.name="{job.strategy.name}": the mean of '
            'several rounds\' A and B is not the mean of their products B·A; use "ffa", "fedsb" or '
            '"head"'
        )


def check_shrink(job: Job) -> None:
    """Raises ValueError that names the key to change, where nobody could tell the noise in an adapter."""
    for key, expected, got, why in _hindrances(job) if job.training.shrink != "none" else ():
        raise ValueError(
            f'{key}: expected {expected} with training.shrink="{job.training.shrink}", got {got}: {why}'
        )


def _hindrances(job: Job) -> Iterator[tuple[str, str, str, str]]:
    """A key, what is expected there, what is there, and why it cannot stay."""
    privacy, training, strategy = job.privacy, job.training, job.strategy
    if privacy.mechanism not in ("gaussian", "skellam"):
        why = "without noise there is nothing to shrink by, and what is shrunk by is Gaussian noise"
        yield "privacy.mechanism", '"gaussian", or "skellam"', f'"{privacy.mechanism}"', why
    if not strategy.shrinks():
        why = "its last adapter is more than the sum of what was released, and so is the noise in it"
        yield "strategy.name", 'one such as "fedsvd", "ffa" or "head"', f'"{strategy.name}"', why
    begins = "training.warm_start" if training.warm_start is not None else "adapter.init"
    if strategy.basis_turns and (training.warm_start is not None or job.adapter.changes_base):
        why = f'"{strategy.name}" turns the basis that it began in: use "ffa"'
        yield begins, "a start with new pairs", "another", why
    if strategy.server is not None:
        why = "an optimizer weighs rounds by what it remembers of them"
        yield "strategy.server", "none", f'"{strategy.server.optimizer}"', why
    if training.optimizer != "sgd":
        why = "it divides each step, and the noise in it, by what earlier gradients were"
        yield "training.optimizer", '"sgd"', f'"{training.optimizer}"', why
    if training.proximal:
        why = "each step is pulled back, and the noise of earlier ones with it"
        yield "training.proximal", "0", f"{training.proximal:g}", why
    if training.update_norm is not None:
        why = "updates are made shorter, and how much each site's are nobody knows"
        yield "training.update_norm", "none", f"{training.update_norm:g}", why
    if job.compression.kind != "none":
        why = "part of the noise waits at the sites"
        yield "compression.kind", '"none"', f'"{job.compression.kind}"', why
