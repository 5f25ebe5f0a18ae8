"""The coordinator as a Flower app: one run, in the process that Flower starts for it.

The run's configuration names the run. Where its folder is, and the key that signs for it, follows from
whose server this is and not from whoever submitted the run: Flower's Control API asks nobody who they are.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from privacy.errors import RunError
from protocol.processes.tether import tie_to_parent
from runs.open_folder import open_folder
from server.coordinated_run import coordinate
from server.post.prompt_grid import PromptGrid
from server.provisioning.coordinator_folder import CoordinatorFolder
from server.service.superlink import SERVED

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run folder lacks, or have its counts counted."""
    # Flower sees the end of what started this process on a thread of its own, and raises SIGINT there: that
    # does not wake a main thread which waits for a lock or for another thread. Linux's signal does.
    tie_to_parent()
    place = os.environ.get(SERVED)
    if place is None:
        raise RunError("this process was not started by `confide server start`")
    coordinator = CoordinatorFolder.open(Path(place))
    folder = open_folder(coordinator.run(str(context.run_config["run"])))
    with closing(PromptGrid(grid)) as prompt:
        coordinate(prompt, folder, coordinator)
