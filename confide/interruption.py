"""Ctrl-C on a command that can be gone on with: what to type then."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from confide.console import printable


@contextmanager
def interruptible(advice: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C within this block ends the command with exit code 130, and prints ``advice`` in one line."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"confide: interrupted; {printable(advice())}", file=sys.stderr)
        raise typer.Exit(130) from None


def command_line(*words: object) -> str:
    """Words as a person would type them."""
    return shlex.join(str(word) for word in words)
