"""The app that Flower delivers: two names for what is installed, and nothing that touches data.

A site runs its own relay and a coordinator its own round loop, whatever arrives. What Flower delivers
could be anyone's anyway, so a site trusts none of it: see the agent.
"""

from __future__ import annotations

from pathlib import Path

from protocol.job.manifest import VERSION

# Flower looks for the assignment in the source, so an import alone would not do.
_RELAY = '''"""The relay that this site installed."""

from client.relay.relay_app import app as installed

app = installed
'''
_COORDINATOR = '''"""The round loop that this coordinator installed."""

from server.coordinator_app import app as installed

app = installed
'''
_PROJECT = f"""[project]
name = "confide-run"
version = "{VERSION}"
description = "One Confide run."
license = "Apache-2.0"

[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[tool.flwr.app]
publisher = "confide"
fab-include = ["confide_run/*.py"]

[tool.flwr.app.components]
serverapp = "confide_run.coordinator:app"
clientapp = "confide_run.relay:app"

[tool.flwr.app.config]
run = ""
"""


def write_app(path: Path) -> None:
    """Write the app's project into an empty folder, for Flower to build."""
    package = path / "confide_run"
    package.mkdir(parents=True)
    (path / "pyproject.toml").write_text(_PROJECT)
    (package / "__init__.py").write_text("")
    (package / "relay.py").write_text(_RELAY)
    (package / "coordinator.py").write_text(_COORDINATOR)
