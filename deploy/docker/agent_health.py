"""Ends with 0 if the agent of a home answers: ``python agent_health.py HOME``. Opens no ledger."""

import sys
from pathlib import Path

from client.agent.health import ask_health
from client.custody.site_file import find_site_file, read_site_file

home = Path(sys.argv[1])
raise SystemExit(ask_health(home, read_site_file(find_site_file(home))) is None)
