"""The coordinator as a Flower app: one run, in the process that Flower starts for it.

The run's configuration names the run folder and the coordinator's folder, both on this machine.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.coordinate import coordinate
from server.coordinator_folder import CoordinatorFolder
from server.run_folder import RunFolder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run folder lacks."""
    folder = RunFolder.open(Path(str(context.run_config["folder"])))
    coordinate(grid, folder, CoordinatorFolder.open(Path(str(context.run_config["coordinator"]))))
