"""An environment of Python for pfl-research, beside the house's own.

pfl wants an older dp-accounting than Confide. So it gets an environment with just these packages, in the
user's cache, which is made once; torch and everything else it finds in the house's, so that both race with
the very same ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# Tried together with torch 2.13.0 and numpy 2.4.6. What else they need the house has.
PACKAGES = (
    "pfl==0.6.0",
    "prv-accountant==0.2.0",
    "dp-accounting==0.5.1",
    "multiprocess==0.70.19",
    "dill==0.4.1",
)
# Pip may take as long as this, in seconds.
_PATIENCE = 300


class UnavailableError(Exception):
    """The environment cannot be made here; says why."""


def python_with_pfl() -> Path:
    """The interpreter of the environment, which is made if it is not there. Raises UnavailableError."""
    house = sysconfig.get_path("purelib")
    digest = hashlib.sha256("\n".join((*PACKAGES, house, sys.version)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "confide" / f"race-pfl-{digest}"
    python, ready = place / "bin" / "python", place / "ready"
    if ready.exists():
        return python
    if place.exists():
        shutil.rmtree(place)
    print(f"pfl: making its environment in {place}", file=sys.stderr)
    venv.create(place, with_pip=True)
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        *PACKAGES,
    ]
    _run(install, doing="installing pfl")
    packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "house.pth").write_text(f"{house}\n")
    _run([str(python), "-c", "import pfl.aggregate.simulate, pfl.model.pytorch"], doing="importing pfl")
    ready.touch()
    return python


def _run(command: list[str], *, doing: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{doing} took more than {_PATIENCE} s") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise UnavailableError(f"{doing} failed: {said[-1]}")
