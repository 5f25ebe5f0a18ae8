"""Baselines beside a run: what privacy costs, and what federation gains."""

from __future__ import annotations

from protocol.job.aggregation import PlainSection
from protocol.job.job import Job, MetricsSection
from runs.progress import Progress
from runs.report.comparison import BASELINES, ONE_SITE, WITHOUT_PRIVACY
from runs.run_folder import RunFolder
from simulation.simulated_federation import World
from simulation.simulated_run import run_in_folder


def compare_run(world: World, folder: RunFolder, *, workers: int, progress: Progress) -> None:
    """Train the run's job twice more, into ``compare/`` of its folder.

    ``without-privacy`` adds no noise, and clips all the same: the learning rate is one for clipped
    gradients. ``one-site`` is the first site alone, with the whole of its own budget. Both start from
    the same adapter and see the same held-out examples, by which they are compared: neither asks for
    metrics, and no site goes on for itself. Nothing is masked: a site alone has no other to mask with.
    """
    asked = folder.manifest.job
    job = asked.model_copy(
        update={
            "metrics": MetricsSection(),
            "aggregation": PlainSection(),
            "training": asked.training.model_copy(update={"personal_steps": 0, "shrink": "none"}),
        }
    )
    silent = _with(
        job,
        mechanism="none",
        noise="distributed",
        unit=job.privacy.sampled_unit,
        noise_correlation="none",
        bands=None,
    )
    variants = {
        WITHOUT_PRIVACY: world.variant(silent),
        # A site's noise in shares would be the whole noise here.
        ONE_SITE: world.variant(
            _alone(_with(job, mechanism="gaussian", noise="central") if job.privacy.hides_sites else job),
            sites=world.site_names[:1],
        ),
    }
    for name, variant in variants.items():
        path = folder.path / "compare" / name
        there = RunFolder.open(path, flush=False) if path.exists() else variant.create_folder(path)
        if job.federation.cohort is not None:
            variant.booked_homes(there)
        run_in_folder(variant, there, workers=workers, progress=progress, title=BASELINES[name])


def _alone(job: Job) -> Job:
    """A job for one site, which nothing is weighed against."""
    return job.model_copy(update={"federation": job.federation.model_copy(update={"weights": None})})


def _with(job: Job, **privacy: str | None) -> Job:
    return job.model_copy(update={"privacy": job.privacy.model_copy(update=privacy)})
