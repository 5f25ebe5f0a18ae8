"""Confide as a Flower app: ``flwr run .`` runs a job on Flower's simulation.

The run's configuration names the job file, relative to the app, keys of it to set, and the folder for
runs.
"""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from privacy.errors import RunError, UserError
from protocol.job.job import Job
from runs.progress import PrintedProgress
from runs.run_log import logged
from simulation.flower_client import answer_as_site
from simulation.simulated_federation import World
from simulation.simulated_run import coordinate
from tasks.registry import read_job

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job's rounds over the nodes that Flower simulates."""
    job = _job(context)
    progress = PrintedProgress()
    progress.stage("Reading the data and loading the base model")
    world = World(job)
    sites = len(world.site_names)
    _wait_for_nodes(grid, sites)
    nodes = len(list(grid.get_node_ids()))
    if nodes != sites:
        raise UserError(
            f"the job has {sites} sites and Flower simulates {nodes} nodes: "
            f'flwr run . --federation-config "num-supernodes={sites}"'
        )
    folder = world.create_folder(_run_path(context))
    progress.started(folder, "Run")
    with logged(folder):
        coordinate(grid, world, folder, progress)
    # Flower carries only some kinds of files, and the report's template is of none of them.
    print(f"for the report: confide report {folder.path}")


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answer as the simulated site of this node."""
    job = _job(context).model_dump_json()
    return answer_as_site(message, context, job=job, home=_run_path(context) / "sites")


def _wait_for_nodes(grid: Grid, count: int, *, seconds: float = 20.0) -> None:
    """Wait until Flower has registered all nodes. Raises RunError when it takes too long."""
    deadline = time.monotonic() + seconds
    while len(list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise RunError(
                f"Flower registered fewer than {count} nodes within {seconds:.0f} s: "
                f'for flwr run, add --federation-config "num-supernodes={count}"'
            )
        time.sleep(0.05)


def _job(context: Context) -> Job:
    app = Path(__file__).resolve().parent.parent
    settings = str(context.run_config["settings"]).split()
    return read_job(app / str(context.run_config["job"]), settings=settings)


def _run_path(context: Context) -> Path:
    """One folder a run, the same in the coordinator's process and in its sites'."""
    runs = Path(str(context.run_config["runs"])).expanduser().resolve()
    return runs / f"flower-{context.run_id}"
