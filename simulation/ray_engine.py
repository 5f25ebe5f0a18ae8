"""The same run on Flower's own simulation engine, Ray, for those who outgrow one process."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from privacy.errors import ConfideError, RunError, UserError
from protocol.job.job import Job
from protocol.job.job_file import beside
from protocol.processes.flower_internals import run_simulation
from runs.run_folder import RunFolder
from simulation.flower_client import make_client_app
from simulation.quiet import quiet, terminal_for_us_alone


def run_on_ray(job: Job, *, sites: int, folder: RunFolder, coordinate: Callable[[Grid], None]) -> None:
    """Start Flower's simulation engine with ``sites`` nodes and call ``coordinate`` with its grid.

    ``folder`` has the sites' homes, and its log takes what Ray and Flower would write to the terminal.
    While the engine runs this process is in another folder: ``coordinate`` uses absolute paths. Raises
    UserError if Ray is not installed, the error that ``coordinate`` raised, or RunError if the engine
    failed.
    """
    if find_spec("ray") is None:
        raise UserError("--engine ray needs Ray: pip install 'confide[ray]'")
    app = ServerApp()
    raised: list[ConfideError] = []

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        try:
            wait_for_nodes(grid, sites)
            coordinate(grid)
        except ConfideError as error:
            raised.append(error)

    threads = job.device.threads or len(os.sched_getaffinity(0))
    resources = {"num_cpus": threads, "num_gpus": 1.0 if job.device.name == "cuda" else 0.0}
    # Flower logs to the terminal that the run's own table is drawn on.
    job, home = beside(job, Path.cwd()), folder.path.resolve() / "sites"
    with (
        terminal_for_us_alone(folder.path / "run.log"),
        _empty_folder(),
        quiet("flwr", below=logging.CRITICAL),
    ):
        try:
            run_simulation(
                server_app=app,
                client_app=make_client_app(job, home),
                num_supernodes=sites,
                backend_config={
                    "client_resources": resources,
                    "init_args": {"log_to_driver": False},
                },
            )
        except RuntimeError as error:
            raise RunError(f"Flower's simulation engine failed: {error}") from error
    if raised:
        raise raised[0]


def wait_for_nodes(grid: Grid, count: int, *, seconds: float = 20.0) -> None:
    """Wait until Flower has registered all nodes. Raises RunError when it takes too long."""
    deadline = time.monotonic() + seconds
    while len(list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise RunError(
                f"Flower registered fewer than {count} nodes within {seconds:.0f} s: "
                f'for flwr run, add --federation-config "num-supernodes={count}"'
            )
        time.sleep(0.05)


@contextlib.contextmanager
def _empty_folder() -> Iterator[None]:
    """Ray puts the driver's folder first on its workers' path: a folder ``client`` there would win."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield
