"""How many sites a run wants: the fewest at which its noise is low."""

from __future__ import annotations

import math
from dataclasses import replace

from privacy.errors import PlanError
from simulation.forecast.noise_level import HIGH, Setup

# More than any federation has; beyond it nothing is said.
_MOST = 1_000_000
# Noise for whole sites falls nearly as one over their number: a few corrections find where it is low.
_CORRECTIONS = 6


def fewest_sites(setup: Setup, *, run: float) -> int | None:
    """The least number of sites, all as large as these, with which noise over the run is at most ``HIGH``.

    ``run`` is the noise level with the sites that there are. None where it is low with them, where a cohort
    is drawn, so that more sites make no larger rounds, and where more of them have no plan.
    """
    sites = len(setup.examples)
    if run <= HIGH or setup.job.federation.cohort is not None:
        return None
    if not setup.job.privacy.hides_sites:
        # The mean of K sites with independent noises: noise falls with the root of K.
        found = math.ceil(sites * (run / HIGH) ** 2)
        return found if found <= _MOST else None
    try:
        return _of_whole_sites(setup, sites, run)
    except PlanError:
        return None


def _of_whole_sites(setup: Setup, sites: int, run: float) -> int | None:
    """Noise for whole sites is in the sum, once: what it is for more of them is planned anew."""
    few, many = sites, _MOST + 1
    guess = math.ceil(sites * run / HIGH)
    for _ in range(_CORRECTIONS):
        guess = min(max(guess, few + 1), many - 1)
        if guess > _MOST:
            return None
        level = _with_sites(setup, guess).noise_level().run
        if level > HIGH:
            few = guess
        else:
            many = guess
        if many - few == 1:
            break
        guess = math.ceil(guess * level / HIGH)
    return many if many <= _MOST else None


def _with_sites(setup: Setup, sites: int) -> Setup:
    """The setup with so many sites, and as large a part of them that a round waits for."""
    federation = setup.job.federation
    if federation.min_sites is not None:
        least = math.ceil(federation.min_sites * sites / len(setup.examples))
        federation = federation.model_copy(update={"min_sites": least})
        setup = replace(setup, job=setup.job.model_copy(update={"federation": federation}))
    # Whole sites are hidden however many examples they have.
    return replace(setup, examples=(setup.examples[0],) * sites)
