"""A checkpoint is loaded by one thread at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from tasks.model.checkpoint import read_checkpoint
from tasks.model.device import Device
from tests import tiny


class _StoppedError(Exception):
    pass


def test_two_threads_load_one_after_another(tiny_folder: Path) -> None:
    """transformers exchanges ``tie_weights`` meanwhile: of two at once one would put back the other's."""
    kind = transformers.PreTrainedModel
    inside, most, original = 0, 0, kind.tie_weights

    class Kind:
        @staticmethod
        def from_pretrained(*_where: object, **_options: object) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            found, transformers.PreTrainedModel.tie_weights = (
                transformers.PreTrainedModel.tie_weights,
                print,
            )
            time.sleep(0.05)
            transformers.PreTrainedModel.tie_weights = found
            inside -= 1
            raise _StoppedError

    device = Device(torch=torch.device("cpu"), bfloat16=False)
    config: Any = SimpleNamespace(id2label=None)
    stopped = []

    def load() -> None:
        try:
            read_checkpoint(tiny.job(tiny_folder), "", Kind, config, labels=(), device=device, options={})
        except _StoppedError:
            stopped.append(True)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(stopped)) == (1, 3)
    assert kind.tie_weights is original
