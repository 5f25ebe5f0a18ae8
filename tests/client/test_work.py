"""A round's work: how long its steps may take, and from when on that counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from client.local_round import Start
from client.training.cancellation import no_pause
from client.work import Work
from privacy.errors import PolicyError
from protocol.messages import confide_pb2 as pb
from tests.privacy.ledgers import PLANS

STEPS = 10


class Clocked:
    """A trainer whose steps take ``seconds`` each, and the clock that says so."""

    def __init__(self, *, seconds: float) -> None:
        self.now = 0.0
        self.taken = 0
        self._seconds = seconds

    def train(self, *_: Any, between: Any, **__: Any) -> np.ndarray:
        for step in range(STEPS):
            between(step, STEPS)
            self.taken += 1
            self.now += self._seconds
        return np.zeros(1, np.float32)


def work_of(trainer: Clocked, *, longest: float) -> Work:
    materials = SimpleNamespace(trainer=trainer, examples=(), activations=SimpleNamespace(work=0))
    session = SimpleNamespace(
        materials=materials,
        manifest=SimpleNamespace(job=SimpleNamespace(phase_of=lambda _: SimpleNamespace(training=None))),
        training=PLANS[0],
        hidden=False,
        stream=None,
    )
    whole: dict[str, Any] = {"session": session, "receipt": None, "entropy": None}
    return Work(
        request=pb.Train(round=1),
        start=Start(adapter=np.zeros(1, np.float32)),
        between=no_pause,
        longest=longest,
        clock=lambda: trainer.now,
        **whole,
    )


def test_what_waits_before_its_first_step_has_all_of_its_time() -> None:
    """A cohort is prepared together and trained one after another."""
    trainer = Clocked(seconds=1.0)
    works = [work_of(trainer, longest=STEPS + 0.5) for _ in range(3)]
    for work in works:
        work.train()
    assert trainer.taken == 3 * STEPS


def test_steps_end_when_their_time_is_over() -> None:
    trainer = Clocked(seconds=1.0)
    with pytest.raises(PolicyError, match="take longer than this site allows"):
        work_of(trainer, longest=3.0).train()
    assert trainer.taken == 3
