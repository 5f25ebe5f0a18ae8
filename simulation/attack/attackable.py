"""Which jobs an attack can read: what a site sends is what it trains, and what is released only adds up."""

from __future__ import annotations

from privacy.errors import UserError
from protocol.job.job import Job
from protocol.job.strategy import Strategy
from tasks.registry import find_task
from tasks.task import WritingTask


def check_examples_stay(job: Job) -> None:
    """Raises UserError where an example has something else in it in each round, such as an answer."""
    if isinstance(find_task(job.task), WritingTask):
        raise UserError(
            f'expected a task whose examples stay as they are, got task="{job.task}", in which the model '
            "writes a part of each anew in every round: such an example cannot be made up or told again"
        )


def check_canaries_fit(job: Job) -> None:
    """Raises UserError unless what each site sends of a round has a place for each trained number."""
    check_examples_stay(job)
    rule = job.strategy
    if rule.cycle > 1:
        raise UserError(
            "strategy.name: expected a rule that trains the same numbers in each round, got "
            f'"{rule.name}": a canary is a step along one of them; use strategy.name="ffa"'
        )
    if type(rule).encode is not Strategy.encode:
        raise UserError(
            "strategy.name: expected a rule that sends what it trains as it is, got "
            f'"{rule.name}": a canary is a step along one number that a site sends; use '
            'strategy.name="ffa"'
        )
    if rule.keeps_local or rule.keep_local != "nothing":
        raise UserError(
            f'strategy.keep_local: expected "nothing", and a rule that sends all that it trains, got '
            f'"{rule.keep_local}" and strategy.name="{rule.name}": a canary is a step along a number that '
            "is released"
        )
    if job.privacy.correlated:
        raise UserError(
            'privacy.noise_correlation: expected "none", got '
            f'"{job.privacy.noise_correlation}": the attacks take each step\'s noise for its own'
        )
    if job.phase:
        raise UserError(
            f"phase: expected none, got {len(job.phase)}: the attacks take all rounds to train the same "
            "numbers with the same noise; attack each phase as a job of its own"
        )
    if job.privacy.clipping_quantile is not None:
        raise UserError(
            "privacy.clipping_quantile: expected none: a canary is as long as the clipping norm, which the "
            "attacks take to be the same in all steps"
        )
    if job.training.rates:
        raise UserError(
            "training.rates: expected none: the attacks take all numbers to move at one learning rate"
        )
    if job.data.mix:
        raise UserError(
            "data.mix: expected none: canaries stand in places of examples that are all drawn at one rate"
        )
    if job.adapter.ranks is not None:
        raise UserError(
            "adapter.ranks: expected none: a canary is a step along one number of the run's adapter, which "
            "a site with a smaller one does not train"
        )


def steps_add_up(job: Job) -> bool:
    """Whether an update is a sum of steps, each of which is a clipped sum with its noise and no more."""
    training = job.training
    return training.optimizer == "sgd" and not training.proximal and not job.strategy.corrects


def rounds_add_up(job: Job) -> bool:
    """Whether what a round releases is the plain mean of its sites' sums of steps.

    Elsewhere the noise is not that of all sites together: a heavy site's update, or the one that Krum
    takes, comes with its own noise alone, and would look as if noise were missing.
    """
    plain = job.compression.kind == "none" and job.training.update_norm is None
    mean = job.strategy.linear and job.strategy.server is None and job.federation.weights is None
    return steps_add_up(job) and plain and mean
