"""Threads in the place of the processes that a site has on other devices."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

import client.training.devices
from client.training.device_process import serve


class Thread:
    """What stands for a process: a thread of this one, that serves over pipes as a process does."""

    def __init__(self) -> None:
        asked, asking = os.pipe()
        answers, answered = os.pipe()
        self.stdin, self.stdout = os.fdopen(asking, "wb"), os.fdopen(answers, "rb")
        self._files = os.fdopen(asked, "rb"), os.fdopen(answered, "wb")
        self._code: int | None = None
        self.lives = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        requests, answers = self._files
        try:
            serve(requests, answers)
        except Exception:
            self._code = 1
        finally:
            for file in self._files:
                with suppress(BrokenPipeError):
                    file.close()

    def poll(self) -> int | None:
        return None if self.lives else self._code

    def kill(self) -> None:
        """Let nobody be answered any more. One that still ``lives`` then seems to."""
        self.lives = False
        if self._code is None:
            self._code = -signal.SIGKILL
            # As when a reader is gone: it finds the end, and what is written fails.
            reading, writing = os.pipe()
            os.close(reading)
            os.dup2(writing, self.stdin.fileno())
            os.close(writing)
        self._thread.join(60)

    def wait(self) -> int:
        self._thread.join(60)
        return self._code or 0


def begin_in_threads(monkeypatch: pytest.MonkeyPatch) -> list[Thread]:
    """Let no processes be begun, but threads, which are listed as they are."""
    begun: list[Thread] = []

    def begin(*_command: object, **_options: object) -> Thread:
        begun.append(Thread())
        return begun[-1]

    monkeypatch.setattr(client.training.devices.subprocess, "Popen", begin)
    return begun
