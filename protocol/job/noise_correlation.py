"""What correlated noise goes with: jobs whose steps' noise reaches the last adapter as it was added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.job.job import Job


def check_correlation(job: Job) -> None:
    """Raises ValueError that names the key to change, for a job whose noise cannot be correlated.

    None of these would cost privacy. They would keep a later step from taking an earlier one's noise back,
    so that the job had more noise than without, and not the noise that its plan tells.
    """
    privacy = job.privacy
    if (privacy.noise_correlation == "banded") != (privacy.bands is not None):
        raise ValueError(
            'privacy.bands: expected a number with privacy.noise_correlation="banded", and none with any '
            f'other, got {privacy.bands} with "{privacy.noise_correlation}"'
        )
    for key, expected, got, why in _hindrances(job) if privacy.correlated else ():
        raise ValueError(
            f'{key}: expected {expected} with privacy.noise_correlation="{privacy.noise_correlation}", '
            f"got {got}: {why}"
        )


def _hindrances(job: Job) -> Iterator[tuple[str, str, str, str]]:
    """A key, what is expected there, what is there, and why it cannot stay."""
    privacy, training, strategy = job.privacy, job.training, job.strategy
    if privacy.hides_sites:
        why = (
            "what hides a whole site is in a round's sum, in shares of the sites that are in it, and "
            "another round's sum, with other survivors, has no share that takes theirs back"
        )
        yield "privacy.unit", '"example"', '"site"', why
    if privacy.mechanism != "gaussian":
        why = "noise of several steps adds up to the noise that is accounted for only if it is Gaussian"
        yield "privacy.mechanism", '"gaussian"', f'"{privacy.mechanism}"', why
    if privacy.clipping_quantile is not None:
        why = "a step's noise would come with another norm than the noise that it takes back"
        yield "privacy.clipping_quantile", "none", f"{privacy.clipping_quantile:g}", why
    if not strategy.correlates():
        why = "a later round's update does not add up with an earlier one's, and takes no noise of it back"
        if strategy.basis_turns:
            why = (
                "the adapter's basis turns after each round, so that a later round's noise has other "
                "directions than the noise that it should take back"
            )
        yield "strategy.name", 'one that sums all rounds alike, as "ffa"', f'"{strategy.name}"', why
    if strategy.server is not None:
        why = "an optimizer weighs rounds by what it remembers of them"
        yield "strategy.server", "none", f'"{strategy.server.optimizer}"', why
    if training.optimizer != "sgd":
        why = "it divides each step by what earlier gradients were"
        yield "training.optimizer", '"sgd"', f'"{training.optimizer}"', why
    if training.proximal:
        why = "each step is pulled back, and the noise in it with it"
        yield "training.proximal", "0", f"{training.proximal:g}", why
    if training.update_norm is not None:
        why = "updates are made shorter, each by another factor"
        yield "training.update_norm", "none", f"{training.update_norm:g}", why
    if training.personal_steps:
        why = "the noise is planned for the last adapter, which these steps come after"
        yield "training.personal_steps", "0", f"{training.personal_steps}", why
    if job.compression.kind != "none":
        why = "what waits at a site is noise that later steps take back before it was sent"
        yield "compression.kind", '"none"', f'"{job.compression.kind}"', why
