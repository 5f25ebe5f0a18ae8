"""One run that is attacked: in a folder of its own, which is gone with the block that looks at it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from runs.progress import Progress
from runs.run import new_name
from runs.run_folder import RunFolder
from simulation.attack.provenance import Tracing
from simulation.simulated_federation import World
from simulation.simulated_run import run_in_folder


@contextmanager
def attacked_run(
    world: World, *, progress: Progress, title: str = "Attacked run", tracing: Tracing | None = None
) -> Iterator[RunFolder]:
    """Run a world's job once, and give its finished folder to this block.

    ``tracing`` counts what that takes as the run's; a run without one is the attack's own. Raises what a
    simulation does.
    """
    job = world.job
    with tempfile.TemporaryDirectory(prefix="confide-attack-") as place:
        with nullcontext() if tracing is None else tracing.running():
            folder = world.create_folder(Path(place) / new_name(job))
            if job.federation.cohort is not None:
                world.booked_homes(folder)
            run_in_folder(world, folder, progress=progress, title=title)
        yield folder
