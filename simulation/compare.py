"""Baselines beside a run: what privacy costs, and what federation gains."""

from __future__ import annotations

import numpy as np

from protocol.job.aggregation import PlainSection
from protocol.job.draw import cohort_size
from protocol.job.job import Job, MetricsSection
from runs.comparison import ALONE, WITHOUT_PRIVACY, save_labels
from runs.progress import Progress, Silence
from runs.run_folder import RunFolder
from simulation.simulated_federation import World
from simulation.simulated_run import run_in_folder

# Baselines are compared by their last adapter: nothing else is made of theirs.
_LAST_ALONE = {"personal_steps": 0, "average": "none", "shrink": "none", "ensemble": 0}
# Sites that train alone: no more than this, and no more than a round has.
_MOST_ALONE = 64


def compare_run(world: World, folder: RunFolder, *, workers: int, progress: Progress) -> None:
    """Train the run's job again, into ``compare/`` of its folder: without privacy, and each site alone.

    ``without-privacy`` adds no noise, and clips all the same: the learning rate is one for clipped
    gradients. A job that has no privacy is not run twice. ``alone/SITE`` is one site alone, with the whole
    of its own budget: see ``sites_alone`` for which. All start from the same adapter and see the same
    held-out examples, by which they are compared: none asks for metrics, and no site goes on for itself.
    Nothing is masked: a site alone has no other to mask with. They share the base model, and what is kept
    of the frozen layers. The label counts of sites are written down beside.
    """
    asked = folder.manifest.job
    job = asked.model_copy(
        update={
            "metrics": MetricsSection(),
            "aggregation": PlainSection(),
            "training": asked.training.model_copy(update=_LAST_ALONE),
        }
    )
    if job.privacy.protects:
        silent = _with(
            job,
            mechanism="none",
            noise="distributed",
            unit=job.privacy.sampled_unit,
            noise_correlation="none",
            bands=None,
        )
        _run(world.variant(silent), folder, WITHOUT_PRIVACY, "Without privacy", progress, workers=workers)
    # A site's noise in shares would be the whole noise here.
    hidden = _with(job, mechanism="gaussian", noise="central") if job.privacy.hides_sites else job
    chosen = sites_alone(world)
    save_labels(folder, {name: found for name in chosen if (found := _count_labels(world, name))})
    for number, name in enumerate(chosen, start=1):
        progress.stage(f"Alone: {name}, {number} of {len(chosen)}")
        alone = world.variant(_alone(hidden), sites=(name,))
        _run(alone, folder, f"{ALONE}/{name}", f"{name} alone", Silence())


def sites_alone(world: World) -> tuple[str, ...]:
    """Who trains alone: all sites, or of many as many as a round has, evenly from the largest on.

    So together they take no more training than the run. Nobody, where there is one site.
    """
    sizes, drawn = world.sizes, world.job.federation.cohort
    if len(sizes) < 2:
        return ()
    order = sorted(sizes, key=lambda name: -sizes[name])
    most = min(_MOST_ALONE, cohort_size(drawn, sites=len(order)))
    places = np.linspace(0, len(order) - 1, num=min(most, len(order))).round().astype(int)
    chosen = {order[place] for place in places}
    return tuple(name for name in sizes if name in chosen)


def _run(
    world: World, folder: RunFolder, name: str, title: str, progress: Progress, *, workers: int = 1
) -> None:
    path = folder.path / "compare" / name
    there = RunFolder.open(path, flush=False) if path.exists() else world.create_folder(path)
    if world.job.federation.cohort is not None:
        world.booked_homes(there)
    run_in_folder(world, there, workers=workers, progress=progress, title=title)


def _count_labels(world: World, name: str) -> dict[str, int]:
    """How many examples of each label a site has; empty for a task whose examples have no label each."""
    numbers = world.examples(name).labels
    if numbers is None or not world.labels:
        return {}
    counts = np.bincount(numbers, minlength=len(world.labels))
    return dict(zip(world.labels, map(int, counts), strict=True))


def _alone(job: Job) -> Job:
    """A job for one site, which nothing is weighed against and no other waits for."""
    update = {"weights": None, "min_sites": None}
    return job.model_copy(update={"federation": job.federation.model_copy(update=update)})


def _with(job: Job, **privacy: str | None) -> Job:
    return job.model_copy(update={"privacy": job.privacy.model_copy(update=privacy)})
