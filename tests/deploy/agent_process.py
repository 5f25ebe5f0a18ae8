"""A site's agent as a process of its own: ``python -m tests.deploy.agent_process HOME GROUP``.

It answers until its standard input ends. GROUP is the number of the group that may use its socket, which
no account of this machine needs to have.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from client.agent.agent_service import Service
from client.custody.site_file import read_site_file


def main(home: Path, group: int) -> None:
    os.umask(0o077)
    with Service(home, read_site_file(home / "site.toml"), group=group):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
