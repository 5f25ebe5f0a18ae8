"""The examples that a round trains on: as they are, or with what the model writes in that round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.training.cancellation import Between
from privacy.mechanisms.rng import Entropy
from tasks.data.examples import Examples
from tasks.data.written_examples import WrittenExamples
from tasks.model.adapted_model import AdaptedModel
from tasks.task import WritingTask


def examples_of_round(
    adapted: AdaptedModel,
    examples: Examples,
    *,
    adapter: NDArray[np.float32],
    round_number: int,
    entropy: Entropy,
) -> Examples:
    """What a round that begins with ``adapter``, float32[adapter_size], trains on.

    Where the model writes, it writes with that adapter in all steps of the round, from randomness that only
    the example and the round share. So what an example says depends on itself, on what is public and on
    its own draws.
    """
    task = adapted.task
    if not isinstance(task, WritingTask):
        return examples
    seed = entropy(round_number, 0, "answers").seed()
    return task.complete(adapted, examples, adapter=adapter, seed=seed)


def write_answers(
    examples: Examples, indices: NDArray[np.int64], between: Between, *, step: int, steps: int
) -> None:
    """Write what is missing of a step's answers, one example after another: each may take long.

    ``between`` is called before each, so that a round that is too long, or an agent that is to stop, ends
    within one.
    """
    if not isinstance(examples, WrittenExamples):
        return
    for index in indices.tolist():
        between(step, steps)
        examples.write(index)
