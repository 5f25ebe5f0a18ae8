"""What a test needs of its machine: without it the test is skipped, and the last line counts it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig

import pytest

# Beside the interpreter first; not every user's PATH has the folders of an administrator's programs.
_PLACES = (sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")


def find(program: str) -> str | None:
    """Where a program is, if it is installed."""
    return shutil.which(program, path=os.pathsep.join(_PLACES))


def needs(program: str) -> pytest.MarkDecorator:
    """Marks a test that runs ``program``; ``make parts`` installs it."""
    return pytest.mark.skipif(find(program) is None, reason=f"{program} is not installed")


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="this machine does not run Linux")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
